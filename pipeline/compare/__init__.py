"""Compares finished outputs of the same requests: cost, agreement and scores."""
