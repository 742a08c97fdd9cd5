"""Tells how far a run is from its output folder alone."""
