"""Provides the pure functions that the reducers share. None of them lets one image see another.

Sums run in an order that depends on the length summed over and on nothing else. Library kernels choose
theirs by the shape of the whole batch, the thread count and the device, which is enough to move a patch
across a threshold when the same image comes in another batch.

Shapes: B images, N patches, D vision width, K tokens kept of one image, k patches kept of one image.
"""

from __future__ import annotations

from typing import TypeGuard

import torch
from torch import Tensor

from trim.host import marked_places
from trim.types import Reduced, VisualTokens


def require_field(x: VisualTokens, name: str, *lead: int, ndim: int | None = None) -> Tensor:
    """Return the field `name` of `x`; ValueError if it is missing or its shape does not begin with `lead`.

    Args:
        x: the batch.
        name: one of its fields.
        lead: the first dimensions, as they must be.
        ndim: how many dimensions there must be in all; None leaves it open.

    Raises:
        ValueError: the field is missing or has another shape; the message names it.
    """
    value = getattr(x, name)
    if value is None:
        raise ValueError(f"VisualTokens.{name} is missing, and this reducer needs it")
    assert isinstance(value, Tensor)
    if tuple(value.shape[: len(lead)]) != lead:
        raise ValueError(
            f"VisualTokens.{name} has shape {list(value.shape)}, expected it to begin {list(lead)}"
        )
    if ndim is not None and value.ndim != ndim:
        raise ValueError(f"VisualTokens.{name} has shape {list(value.shape)}, expected {ndim} dimensions")
    return value


def patches_of(x: VisualTokens) -> Tensor:
    """Return the patches, [B, N, D] with N >= 1.

    Raises:
        ValueError: another number of dimensions, or no patches.
    """
    if x.patches.ndim != 3 or x.patches.shape[1] == 0:
        raise ValueError(f"VisualTokens.patches has shape {list(x.patches.shape)}, expected [B, N >= 1, D]")
    return x.patches


def budget_of(x: VisualTokens) -> Tensor | None:
    """Return the tokens to keep of each image, [B] int64; None if the batch has no budget.

    A budget above N means all N. `trim.host.read` refuses one below 1, together with what else it
    reads of the device.

    Raises:
        ValueError: another shape or a floating dtype.
    """
    if x.budget is None:
        return None
    batch, patches, _ = x.patches.shape
    budget_B = require_field(x, "budget", batch)
    if budget_B.ndim != 1 or budget_B.is_floating_point():
        raise ValueError("VisualTokens.budget must be [B] whole numbers")
    return budget_B.to(x.patches.device, torch.int64).clamp(max=patches)


def is_whole(value: object) -> TypeGuard[int]:
    """Tell whether a value is an int and no bool."""
    return isinstance(value, int) and not isinstance(value, bool)


def check_sign(sign: int) -> None:
    """Validate whether low (-1) or high (+1) similarity to the text makes a patch relevant.

    Raises:
        ValueError: it is neither.
    """
    if sign not in (-1, 1):
        raise ValueError(f"sign must be -1 or 1, not {sign!r}")


def check_count(name: str, value: object, least: int = 1) -> None:
    """Validate a parameter that counts something.

    Raises:
        ValueError: it is no whole number or below `least`; the message names the parameter.
    """
    if not is_whole(value) or value < least:
        raise ValueError(f"{name} must be a whole number of at least {least}, not {value!r}")


def check_size(keep_ratio: float | None, num_kept: int | None) -> None:
    """Validate the two exclusive ways to say how many patches stay.

    Raises:
        ValueError: both are given, or one is out of range; the message names the parameter.
    """
    if keep_ratio is not None and num_kept is not None:
        raise ValueError("keep_ratio and num_kept exclude each other; give one of them")
    if keep_ratio is not None and not 0 < keep_ratio <= 1:
        raise ValueError(f"keep_ratio must be above 0 and at most 1, not {keep_ratio!r}")
    if num_kept is not None:
        check_count("num_kept", num_kept)


def fixed_count(keep_ratio: float | None, num_kept: int | None, patches: int) -> int | None:
    """Compute int(N keep_ratio) or min(num_kept, N); None if neither is given."""
    if keep_ratio is not None:
        return int(patches * keep_ratio)
    return None if num_kept is None else min(num_kept, patches)


def ordered_sum(x: Tensor, dim: int) -> Tensor:
    """Sum over `dim` by adding the second half onto the first until one entry is left.

    Elementwise additions alone: the same bits in any batch, thread count and device. The memory of `x` is
    used up, so it must belong to the caller. The sum of nothing is 0.
    """
    length = x.shape[dim]
    if length == 0:
        return x.sum(dim)
    while length > 1:
        half = (length + 1) // 2
        x.narrow(dim, 0, length - half).add_(x.narrow(dim, half, length - half))
        length = half
    return x.select(dim, 0)


def ordered_dot(a: Tensor, b: Tensor) -> Tensor:
    """Compute dot products over the last dimension of two tensors [..., P], in the order of `ordered_sum`.

    The two broadcast against each other; returns their common shape without its last dimension.
    """
    return ordered_sum(a * b, dim=-1)


def iqr_outliers(scores_BN: Tensor, factor: float = 1.5) -> Tensor:
    """Mark the scores that lie strictly above Q3 + factor (Q3 - Q1) of their row.

    Quartiles are interpolated linearly, like numpy's default. Spelled out rather than left to
    torch.quantile, whose interpolation may round differently from one vector lane to the next.

    Args:
        scores_BN: [B, N] floating point, finite.
        factor: how many interquartile ranges above the third quartile an outlier begins.

    Returns:
        [B, N] bool.
    """
    sorted_BN = scores_BN.sort(dim=-1).values

    def quartile(q: float) -> Tensor:
        position = q * (scores_BN.shape[-1] - 1)
        below = int(position)
        above = min(below + 1, scores_BN.shape[-1] - 1)
        low_B1, high_B1 = sorted_BN[:, below, None], sorted_BN[:, above, None]
        return low_B1 + (high_B1 - low_B1) * (position - below)

    q1_B1, q3_B1 = quartile(0.25), quartile(0.75)
    return scores_BN > q3_B1 + (q3_B1 - q1_B1) * factor


def top_mask(scores_BN: Tensor, count_B: Tensor) -> Tensor:
    """Mark the `count_B` largest scores of each row; among equals the lower index goes first.

    Args:
        scores_BN: [B, N] any ordered dtype, without NaN.
        count_B: [B] int64; below 0 counts as 0, above N as N.

    Returns:
        [B, N] bool.
    """
    order_BN = scores_BN.argsort(dim=-1, descending=True, stable=True)
    place_N = torch.arange(scores_BN.shape[-1], device=scores_BN.device)
    rank_BN = torch.empty_like(order_BN).scatter_(-1, order_BN, place_N.expand_as(order_BN))
    return rank_BN < count_B[:, None]


def picked_mask(picked_BK: Tensor, count_B: Tensor, patches: int) -> Tensor:
    """Mark the first `count_B` patches of each row of a greedy choice.

    Args:
        picked_BK: [B, K] int64, different indices in each row, the best first.
        count_B: [B] int64 between 0 and K.
        patches: N.

    Returns:
        [B, N] bool.
    """
    place_K = torch.arange(picked_BK.shape[1], device=picked_BK.device)
    mask_BN = picked_BK.new_zeros(len(picked_BK), patches, dtype=torch.bool)
    return mask_BN.scatter_(1, picked_BK, place_K < count_B[:, None])


def mean_of_rest(patches_BND: Tensor, kept_BN: Tensor) -> Tensor:
    """Average the patches that are not kept, accumulated in float32 (float64 for float64).

    Args:
        patches_BND: [B, N, D] floating point.
        kept_BN: [B, N] bool.

    Returns:
        [B, D] in the dtype of the patches; zeros for an image that keeps everything.
    """
    wide = torch.promote_types(patches_BND.dtype, torch.float32)
    sum_BD = ordered_sum(patches_BND.masked_fill(kept_BN[..., None], 0).to(wide), dim=1)
    rest_B = kept_BN.logical_not().sum(-1).clamp(min=1)
    return (sum_BD / rest_B[:, None]).to(patches_BND.dtype)


def keep_patches(
    patches_BND: Tensor, kept_BN: Tensor, count: list[int], mean_BD: Tensor | None = None
) -> list[Reduced]:
    """Split a batch into one ragged result per image: its kept patches in spatial order, then its mean.

    An image that keeps every patch gets no mean, because there is no rest to stand for.

    Args:
        patches_BND: [B, N, D].
        kept_BN: [B, N] bool.
        count: how many patches each image keeps, from `trim.host.read`.
        mean_BD: [B, D] the means; None leaves them out.
    """
    place_BK = marked_places(kept_BN, max(count, default=0))
    reduced = []
    for i in range(len(count)):
        kept_k = place_BK[i, : count[i]].clone()
        tokens_KD = patches_BND[i].index_select(0, kept_k)
        if mean_BD is not None and count[i] < patches_BND.shape[1]:
            tokens_KD = torch.cat([tokens_KD, mean_BD[i : i + 1]])
        reduced.append(Reduced(tokens_KD, kept_k))
    return reduced
