"""Runs vision towers and LLaVA's parts: preprocessing, prompts, model sizes and memory needed."""
