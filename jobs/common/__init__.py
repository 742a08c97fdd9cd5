"""Turns Hydra's configuration into dataclasses, errors into one line and an exit status."""
