"""Runs a configured job from the frozen plan to _SUCCESS."""
