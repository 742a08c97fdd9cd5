"""Vision towers, LLaVA, image preprocessing, prompts, model sizes and memory needed."""
