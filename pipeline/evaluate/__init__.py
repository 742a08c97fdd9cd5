"""Scores a finished output against reference answers."""
