"""Errors, fingerprint marks, schemas, logs, caches, thread pools and tables: imports nothing above it."""
