"""What TRIM's reduction costs beside the forward pass of CLIP's ViT-L/14-336 for the same images.

Legend: B images, N patches, D vision width, P joint CLIP width.
"""

import time
from collections.abc import Callable
from statistics import median
from typing import Any

import torch

from pipeline.benchmark.table import Table
from trim import Trim, VisualTokens

_N, _D, _P = 576, 1024, 768


def measure(batch: int, at_once: int, rounds: int, dtype: str) -> dict[str, Any]:
    """Seconds of the reduction of a [batch, 576, 1024] batch and of the ViT, and the share.

    The ViT sees `at_once` images a pass and runs the 23 layers that LLaVA reads. Its weights are random,
    which changes no time.
    """
    tower, kind = vit_l(getattr(torch, dtype)), getattr(torch, dtype)
    patches_BND = torch.randn(batch, _N, _D).to(kind)
    tokens = VisualTokens(patches=patches_BND, metric=torch.randn(batch, _N, _P), text=torch.randn(batch, _P))
    pixels = torch.randn(at_once, 3, 336, 336).to(kind)
    reducer = Trim()
    reduce_s, forward_s = [], []
    with torch.inference_mode():
        tower(pixels), reducer(tokens)  # warm-up
        for _ in range(rounds):
            forward_s.append(seconds_of(lambda: [tower(pixels) for _ in range(0, batch, at_once)]))
            reduce_s.append(seconds_of(lambda: reducer(tokens)))
    reduced, forward = median(reduce_s), median(forward_s)
    return {
        "images": batch,
        "dtype": dtype,
        "reduce_s": reduced,
        "vit_s": forward,
        "share": reduced / forward,
    }


def table(figures: dict[str, Any]) -> Table:
    """What `measure` found."""
    return Table(
        f"reduction: {figures['images']} images of {_N} patches, {figures['dtype']}",
        ("", "seconds"),
        [("TRIM", figures["reduce_s"]), ("ViT-L/14-336, 23 layers", figures["vit_s"])],
        (f"TRIM takes {figures['share']:.2%} of the forward pass",),
    )


def vit_l(dtype: torch.dtype) -> Any:
    """ViT-L/14-336's 23 layers that LLaVA reads, with random weights."""
    from transformers import CLIPVisionConfig, CLIPVisionModel

    config = CLIPVisionConfig(
        hidden_size=_D,
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
