"""Reads, decodes, encodes, generates and writes a unit, each as a function of one Ray row."""
