"""Trains the demo checkpoint from drawn scenes."""

from pipeline.support.cache import use_private_compiler_cache

use_private_compiler_cache()  # before transformers is imported, which compiles and loads code
