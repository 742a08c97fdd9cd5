"""Forecasts what a larger job takes by simulating it from a small one."""
