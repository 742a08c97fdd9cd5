"""Bounds image files format by format, before Pillow sees them."""
