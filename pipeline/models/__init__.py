"""Runs vision towers and LLaVA's parts: preprocessing, prompts, model sizes and memory needed."""

from pipeline.support.cache import use_private_compiler_cache

use_private_compiler_cache()  # before anything below imports torch: transformers compiles when it is imported
