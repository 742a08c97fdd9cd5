"""Checks that an output is complete, by itself or against its source."""
