"""CLIP's ViT-L/14-336 as LLaVA runs it, to measure other things beside it."""

import time
from collections.abc import Callable
from typing import Any

import torch


def vit_l(dtype: torch.dtype) -> Any:
    """The 23 layers that LLaVA reads, with random weights, which change no time."""
    from transformers import CLIPVisionConfig, CLIPVisionModel

    config = CLIPVisionConfig(
        hidden_size=1024,
        intermediate_size=4096,
        num_hidden_layers=23,
        num_attention_heads=16,
        image_size=336,
        patch_size=14,
    )
    tower: Any = CLIPVisionModel(config)
    return tower.to(dtype).eval()


def seconds_of(work: Callable[[], Any]) -> float:
    """How long a call takes."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started
