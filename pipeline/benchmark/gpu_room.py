"""Leaves room on one GPU for the several models that an end-to-end benchmark holds there."""

import dataclasses

import torch

from pipeline.engines.base import EngineConfig
from pipeline.engines.vllm import Vllm
from pipeline.models.checkpoints.folders import folders
from pipeline.models.config import Model
from pipeline.models.footprint import GIB, of_generate

_RESERVE = 4 * GIB  # of each model: CLIP, CUDA's own, and what its passes take
_LEAST_GIB = 1.0


def beside_others(engine: EngineConfig, model: Model, device: torch.device, *, models: int) -> EngineConfig:
    """Bound vLLM's cache on a GPU that also holds others; by itself it takes all memory that is free.

    A cache that is configured stays, and so does any other engine.

    Args:
        models: language models on the GPU, vLLM's among them; each may have as much beside its weights.
    """
    if device.type == "cpu" or not isinstance(engine, Vllm):
        return engine
    if engine.kv_cache_gib is not None or engine.gpu_memory_utilization is not None:
        return engine
    free, _ = torch.cuda.mem_get_info(device)
    weights = of_generate(folders(model)[0], model.generate_dtype).weights
    room = free / models - weights - _RESERVE
    return dataclasses.replace(engine, kv_cache_gib=max(_LEAST_GIB, room / GIB))
