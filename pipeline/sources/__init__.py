"""Yields samples from images, tars, Parquet and JSONL, and the requests that a task makes of them."""
