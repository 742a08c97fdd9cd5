"""Trains the demo checkpoint from drawn scenes."""
