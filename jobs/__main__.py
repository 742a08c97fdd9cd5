"""Runs `trimline` as `python -m jobs`."""

from jobs.main import main

main()
