"""Writes finished answers in the formats that training, evaluation and other tools read."""
