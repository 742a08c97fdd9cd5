"""Initialises the vision tower with the patterns that every trained tower learns first.

From random weights, a tower this small needs thousands of steps to learn smooth filters and which patches are
neighbours. So positions start as sines and cosines (arXiv 2205.01580), patch filters as smooth cosine
patterns, and some attention heads attend to the neighbours of each patch (as in arXiv 2103.10697).
"""

from itertools import product
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import CLIPVisionModel

from pipeline.models.demo.tokenizers import IMAGE_PX, PATCH_PX

GRID = IMAGE_PX // PATCH_PX
HIGHEST, LOWEST = 1.6, 0.1  # radians a patch
COLOR_FREQUENCIES = 20  # up to this squared frequency filters see colours, above it brightness alone
FILTER_SCALE = 0.25
LOCAL_LAYERS = (1, 2, 3)
SHARPNESS = 1.0  # of attention to neighbours: its weight falls to a third over about three patches


@torch.no_grad()
def set_start(tower: CLIPVisionModel, generator: torch.Generator) -> None:
    """Overwrite positions and filters, and add to queries and keys; other weights stay as they are."""
    embeddings: Any = tower.embeddings  # the library types submodules as Tensor | Module
    width = embeddings.position_embedding.weight.shape[1]
    embeddings.position_embedding.weight[1:] = _waves(width)
    mixed, _ = torch.linalg.qr(torch.randn(width, width, generator=generator))
    filters = torch.einsum("de,ecyx->dcyx", mixed, _smooth_filters(width))
    embeddings.patch_embedding.weight.copy_(FILTER_SCALE * filters)
    for layer in LOCAL_LAYERS:
        attention: Any = tower.encoder.layers[layer].self_attn  # as above
        for head in range(attention.num_heads):
            rows = slice(head * attention.head_dim, (head + 1) * attention.head_dim)
            around = SHARPNESS * _some_waves(width, attention.head_dim, head)
            attention.q_proj.weight[rows] += around
            attention.k_proj.weight[rows] += around


def _waves(width: int) -> Tensor:
    """Compute sines and cosines of each patch's row and column: [N, D]."""
    count = width // 4
    frequencies = HIGHEST * (LOWEST / HIGHEST) ** (torch.arange(count) / (count - 1))
    angles = torch.arange(GRID)[:, None] * frequencies
    axis = torch.cat([angles.sin(), angles.cos()], 1)
    rows = axis[:, None].expand(GRID, GRID, -1)
    return torch.cat([rows, rows.transpose(0, 1)], -1).flatten(0, 1)


def _some_waves(width: int, head_dim: int, head: int) -> Tensor:
    """Select some of the waves, different ones for each head: [head_dim, D].

    The product of two patches' selections is a sum of cosines of their distance, largest where it is 0.
    """
    selection = torch.zeros(head_dim, width)
    count, each = width // 4, head_dim // 4  # waves of an axis; selected ones, each a sine and a cosine
    for axis, number in product(range(2), range(each)):
        wave = number * (count - 1) // each + head % 3
        row, column = (axis * each + number) * 2, axis * width // 2 + wave
        selection[row, column] = selection[row + 1, column + count] = 1
    return selection


def _smooth_filters(count: int) -> Tensor:
    """Make the `count` smoothest cosine products over a patch, in three colour axes: [count, 3, 14, 14]."""
    steps = np.arange(PATCH_PX)
    waves = np.cos(np.pi * (2 * steps[None] + 1) * steps[:, None] / (2 * PATCH_PX)) * np.sqrt(2 / PATCH_PX)
    waves[0] /= np.sqrt(2)
    axes = [np.array(axis) / np.linalg.norm(axis) for axis in ((1, 1, 1), (1, 0, -1), (1, -2, 1))]
    smoothest = sorted(product(steps, steps), key=lambda pair: (pair[0] ** 2 + pair[1] ** 2, pair))
    filters = [
        np.einsum("c,y,x->cyx", axis, waves[down], waves[right])
        for down, right in smoothest
        for axis in (axes if down**2 + right**2 <= COLOR_FREQUENCIES else axes[:1])
    ]
    return torch.from_numpy(np.stack(filters[:count])).float()
