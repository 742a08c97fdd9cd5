"""Builds report.html and pictures of kept patches."""
