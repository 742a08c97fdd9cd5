"""Computes the published metrics."""
