"""Finds, checks, converts and loads checkpoint files."""
