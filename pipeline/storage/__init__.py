"""Reads, lists and writes files, local or on S3."""
