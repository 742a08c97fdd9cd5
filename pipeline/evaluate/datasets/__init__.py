"""Reads the official files of evaluation sets."""
