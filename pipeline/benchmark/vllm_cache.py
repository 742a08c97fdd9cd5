"""Bounds vLLM's cache on a GPU that also holds the other models of an end-to-end benchmark."""

import dataclasses

import torch

from pipeline.engines.base import EngineConfig
from pipeline.engines.vllm import Vllm
from pipeline.models.checkpoints.folders import folders
from pipeline.models.config import Model
from pipeline.models.footprint import GIB, of_generate

_RESERVE = 4 * GIB  # of each model: CLIP, CUDA's own, and what its passes take
_LEAST_GIB = 1.0


def bound_cache(engine: EngineConfig, model: Model, device: torch.device, *, models: int) -> EngineConfig:
    """Bound vLLM's cache on a GPU that also holds others; by itself it takes all memory that is free.

    A cache that is configured stays, and so does any other engine.

    Args:
        models: language models on the GPU, vLLM's among them; each may have as much beside its weights.
    """
    if device.type == "cpu" or not isinstance(engine, Vllm) or not engine.takes_free_memory:
        return engine
    free, _ = torch.cuda.mem_get_info(device)
    weights = of_generate(folders(model)[0], model.generate_dtype).weights
    room = free / models - weights - _RESERVE
    return dataclasses.replace(engine, kv_cache_gib=max(_LEAST_GIB, room / GIB))
