"""Proves on a machine with one GPU and no network what a machine without one cannot show."""
