"""Keeps a run going when a unit crashes or blocks the worker that processes it, or raises an exception."""
