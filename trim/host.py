"""Reads numbers of a batch on the host, in one copy for which the reducer waits once.

Shapes: B images, N patches.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from trim.types import VisualTokens


def read(x: VisualTokens, finite: Mapping[str, Tensor], *numbers_B: Tensor) -> list[list[int]]:
    """Read numbers of each image on the host, after checking its budget and its scores.

    Args:
        x: the batch.
        finite: by the fields that scores come from, [B] bool: whether all scores of an image are numbers.
        numbers_B: each [B] whole numbers.

    Returns:
        Each of `numbers_B` as a list.

    Raises:
        ValueError: a budget is below 1, or scores are NaN or infinite; the message names the image.
    """
    asked = () if x.budget is None else (x.budget,)
    rows = [row.to(x.patches.device, torch.int64) for row in (*numbers_B, *finite.values(), *asked)]
    lists: list[list[int]] = torch.stack(rows).tolist() if rows else []
    for image, tokens in enumerate(lists[-1] if asked else ()):
        if tokens < 1:
            raise ValueError(f"VisualTokens.budget of image {image} is {tokens}, must be at least 1")
    for origin, flags in zip(finite, lists[len(numbers_B) :], strict=False):
        for image, is_finite in enumerate(flags):
            if not is_finite:
                raise ValueError(f"scores of image {image} are NaN or infinite: see its {origin}")
    return lists[: len(numbers_B)]


def all_finite(scores_BN: Tensor) -> Tensor:
    """Tell of each image whether all of its scores are finite numbers: [B] bool."""
    return scores_BN.isfinite().all(-1)


def send(host: Tensor, device: torch.device) -> Tensor:
    """Copy a tensor of the host to a device; a CUDA device is not waited for."""
    if device.type == "cuda":
        return host.pin_memory().to(device, non_blocking=True)
    return host.to(device)


def marked_places(mask_BN: Tensor, count: int, fill: int = 0) -> Tensor:
    """List the places of each row's first `count` marks, ascending; unlike `nonzero`, waits for nothing.

    Args:
        mask_BN: [B, N] bool.
        count: K.
        fill: what stands behind a row's last mark, if it has fewer than `count`.

    Returns:
        [B, K] int64.
    """
    batch, patches = mask_BN.shape
    rank_BN = (mask_BN.cumsum(-1) - 1).clamp_(max=count).masked_fill_(~mask_BN, count)
    place_BN = torch.arange(patches, device=mask_BN.device).expand(batch, patches)
    # Column K takes the places that nobody asks for.
    return rank_BN.new_full((batch, count + 1), fill).scatter_(1, rank_BN, place_BN)[:, :count]
