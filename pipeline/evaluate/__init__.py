"""Scores of a finished output by the rules of the field: metrics, datasets, and the join between them."""
