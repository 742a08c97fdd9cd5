"""Draws scenes with known answers, asks questions about them and scores the answers."""
