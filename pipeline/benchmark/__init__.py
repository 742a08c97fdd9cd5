"""Measures speed and memory; each module is one table of `trimline benchmark`."""
