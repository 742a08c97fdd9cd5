"""`trimline benchmark`: speed and memory, measured; each module is one table."""
