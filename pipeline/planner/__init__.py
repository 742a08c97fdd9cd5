"""Forecasts the hours, bytes and money of a larger job by simulating it from a small one."""
