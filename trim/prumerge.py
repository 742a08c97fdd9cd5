"""PruMerge: keep the patches that the CLS token attends to, each with its neighbours merged into it.

Shapes: B images, N patches, D vision width, K tokens kept of one image, k patches kept of one image,
m neighbours merged into each.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

from trim.cosine import unit_vectors
from trim.host import all_finite, marked_places, read, send
from trim.select import (
    budget_of,
    check_count,
    iqr_outliers,
    patches_of,
    require_field,
)
from trim.types import Reduced, VisualTokens


@dataclass(frozen=True)
class PruMerge:
    """LLaVA-PruMerge and PruMerge+ (Shang et al., arXiv 2403.15388, method section).

    For each image a = last_cls_attention. The c patches with a > Q3 + 1.5 (Q3 - Q1) stay, in descending
    order of a. Into each of them go its nearest other patches, kept ones too, by the cosine of last_keys:
    x_i + sum_j a_j x_j, the weights not normalised. The sum of a_j x_j over all pruned patches follows as
    one more token: K = c + 1. No outlier (c = 0) leaves that token alone.

    `plus` lets, before the merging, the patches 0, s, 2 s, ... below N - 1 follow those c, as far as they are
    not among them, in that order; s = max(1, int(int(1 / r) / 3)) with r = c / N.

    `budget[i] = b`, where the batch brings one, is the number of TOKENS of image i, the merged rest
    included: K = min(b, N) always. b >= N keeps every patch and needs no token for the rest, else b - 1
    patches stay and the rest is one token (b = 1: that token alone). They are the ones with the largest a;
    with `plus` the outliers as far as they fit, then the grid, thinned evenly if it is too long, then, if it
    is too short, the largest a among the others.

    Args:
        plus: True for PruMerge+.
        neighbours: how many patches are merged into each kept one (all N - 1 others, if there are fewer).

    Deviations from the published code:

    1. Quartiles and grid are taken image by image; the published code is written for batches of one.
    2. PruMerge+ with c = 0 takes r = 1 / N, the sparsest grid there is; the published code divides by zero.
    3. If no patch is pruned there is no token for the rest; the published code appends zeros.
    4. c patches stay, where the published int(N (c / N)) loses one to rounding (at N = 196, say; at 256,
       576 and 1024 it never does).
    5. Among patches of equal a or equal cosine the lower index goes first; topk leaves that open.
    6. Fewer than `neighbours` other patches are all merged; the published code crashes.

    The `forward` of the published code runs PruMerge+. Its authors' numbers of full strength are of
    checkpoints tuned with LoRA on reduced tokens, not of LLaVA-1.5 as it is.

    Scores are read and sums are accumulated in float32, whatever the dtype of the patches.

    Raises:
        ValueError: on construction, naming the parameter; on call, naming the field that is missing or
            has the wrong shape, the image whose attention or keys are NaN or infinite, or the image whose
            budget is below 1.
    """

    plus: bool = False
    neighbours: int = 32

    needs: ClassVar[frozenset[str]] = frozenset({"last_cls_attention", "last_keys"})

    def __post_init__(self) -> None:
        if not isinstance(self.plus, bool):
            raise ValueError(f"plus must be True or False, not {self.plus!r}")
        check_count("neighbours", self.neighbours)

    def __call__(self, x: VisualTokens) -> list[Reduced]:
        """Return one `Reduced` per image: tokens [K, D] in the dtype of the patches, kept [k] int64."""
        patches_BND = patches_of(x)
        batch, patches, _ = patches_BND.shape
        scores_BN = require_field(x, "last_cls_attention", batch, patches, ndim=2).float()
        keys_BND = require_field(x, "last_keys", batch, patches, ndim=3)
        kept = self._choose_all(x, scores_BN)
        finite_B = scores_BN.new_empty(batch, dtype=torch.bool)
        reduced = []
        for i, kept_k in enumerate(kept):
            unit_ND, finite_B[i] = unit_vectors(keys_BND[i])
            tokens_KD = merge_neighbours(patches_BND[i], scores_BN[i], unit_ND, kept_k, self.neighbours)
            reduced.append(Reduced(tokens_KD, kept_k))
        read(x, {"last_keys": finite_B})
        return reduced

    def _choose_all(self, x: VisualTokens, scores_BN: Tensor) -> list[Tensor]:
        """Choose the patches to keep of each image: [k] int64 each, on the device.

        The host must know how many. PruMerge+ looks into the order of the patches, too, so it chooses there.
        """
        order_BN = scores_BN.argsort(dim=-1, descending=True, stable=True)
        budget_B = budget_of(x)
        finite = {"last_cls_attention": all_finite(scores_BN)}
        outliers_B = iqr_outliers(scores_BN).sum(-1)
        budget: Sequence[int | None]
        if budget_B is None:
            (outliers,) = read(x, finite, outliers_B)
            budget = [None] * len(outliers)
        else:
            outliers, budget = read(x, finite, outliers_B, budget_B)
        if self.plus:
            order_BN = order_BN.cpu()
        kept = [self.choose(*image) for image in zip(order_BN, outliers, budget, strict=True)]
        if not self.plus or not kept:
            return kept
        return list(
            send(torch.cat(kept), scores_BN.device).split_with_sizes([len(kept_k) for kept_k in kept])
        )

    def choose(self, order_N: Tensor, outliers: int, budget: int | None) -> Tensor:
        """Choose the patches of one image to keep, [k] int64 in the order of the result.

        Args:
            order_N: [N] int64, all patches by descending score.
            outliers: c.
            budget: tokens in all, at most N; None leaves it to the rule.
        """
        patches = len(order_N)
        # One token of a budget that is too small for all patches goes to the rest.
        room = None if budget is None else budget - (budget < patches)
        if not self.plus:
            return order_N[: outliers if room is None else room]
        best_c = order_N[: outliers if room is None else min(outliers, room)]
        free_N = torch.ones_like(order_N, dtype=torch.bool).index_fill_(0, best_c, False)
        grid_g = grid(patches, outliers, order_N.device)
        grid_g = grid_g[free_N[grid_g]]
        if room is None:
            return torch.cat([best_c, grid_g])
        grid_g = thin(grid_g, room - len(best_c))
        others = order_N[free_N.index_fill_(0, grid_g, False)[order_N]]
        return torch.cat([best_c, grid_g, others[: room - len(best_c) - len(grid_g)]])


def grid(patches: int, outliers: int, device: torch.device) -> Tensor:
    """List PruMerge+'s evenly spaced patches, [g] int64: the denser, the larger the share of outliers."""
    # Floating point as published: 1 / (c / N) may come out just below the whole number N / c.
    stride = max(1, int(int(1 / (max(outliers, 1) / patches)) / 3))
    return torch.arange(0, patches - 1, stride, device=device)


def thin(index_g: Tensor, count: int) -> Tensor:
    """Select at most `count` entries, evenly spread from the first on."""
    if len(index_g) <= count:
        return index_g
    return index_g[torch.arange(count, device=index_g.device) * len(index_g) // max(count, 1)]


def merge_neighbours(
    patches_ND: Tensor, scores_N: Tensor, unit_ND: Tensor, kept_k: Tensor, neighbours: int
) -> Tensor:
    """Merge each kept patch's nearest others into it, and all pruned patches into one token at the end.

    Args:
        patches_ND: [N, D] floating point.
        scores_N: [N] float32, the weight of each patch.
        unit_ND: [N, any] the keys, from `unit_vectors`.
        kept_k: [k] int64.
        neighbours: how many others are merged into each.

    Returns:
        [K, D] in the dtype of the patches; K = k + 1, or N if nothing is pruned.
    """
    patches = len(patches_ND)
    cosine_kN = unit_ND[kept_k] @ unit_ND.T
    cosine_kN.scatter_(1, kept_k[:, None], -torch.inf)  # a patch is not its own neighbour
    near_km = nearest(cosine_kN, min(neighbours, patches - 1))
    wide_ND = patches_ND.to(torch.promote_types(patches_ND.dtype, torch.float32)).contiguous()
    pruned_N = torch.ones_like(scores_N, dtype=torch.bool).index_fill_(0, kept_k, False)
    # A bag for each kept patch and one for the rest, each added up in the order of its patches: the same bits
    # whatever the other bags, the batch and the threads are.
    rest_n = marked_places(pruned_N[None], patches - len(kept_k))[0]
    in_bags = torch.cat([near_km.flatten(), rest_n])
    begin_K = torch.arange(len(kept_k) + 1, device=kept_k.device) * near_km.shape[1]
    weights = scores_N.to(wide_ND.dtype)[in_bags]
    tokens_KD = embedding_bag(in_bags, wide_ND, begin_K, mode="sum", per_sample_weights=weights)
    tokens_KD[:-1] += wide_ND[kept_k]
    return tokens_KD[: min(len(begin_K), patches)].to(patches_ND.dtype)


def nearest(cosine_kN: Tensor, count: int) -> Tensor:
    """Find the `count` columns with the largest entries of each row, ascending; of equal ones the first.

    Returns:
        [k, count] int64.
    """
    if count == 0:
        return cosine_kN.new_empty(len(cosine_kN), 0, dtype=torch.int64)
    last_k1 = cosine_kN.topk(count, dim=-1).values[:, -1:]
    chosen_kN = cosine_kN >= last_k1
    # Some may be equal to the last one; to ask a GPU takes longer than to act as if they were.
    if cosine_kN.is_cuda or int(chosen_kN.sum()) > count * len(cosine_kN):
        equal_kN = cosine_kN == last_k1
        room_k1 = count - (cosine_kN > last_k1).sum(-1, keepdim=True)
        chosen_kN &= ~equal_kN | (equal_kN.cumsum(-1) <= room_k1)
    return marked_places(chosen_kN, count)
