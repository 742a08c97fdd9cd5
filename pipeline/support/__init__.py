"""Provides errors, fingerprint marks, schemas, logs, caches, thread pools and tables to every room."""
