"""Generates answers from input embeddings, with transformers or vLLM."""
