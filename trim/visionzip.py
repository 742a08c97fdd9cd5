"""VisionZip: keep the patches that the CLS token attends to, and merge the others by the likeness of keys.

Shapes: B images, N patches, D vision width, d width of the keys, K tokens kept of one image, k patches kept
of one image, n patches not kept, t contextual tokens, M rows to add up.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from trim.cosine import unit_vectors
from trim.host import all_finite, marked_places, read
from trim.select import budget_of, check_count, patches_of, require_field, top_mask
from trim.types import Reduced, VisualTokens


@dataclass(frozen=True)
class VisionZip:
    """VisionZip without training (Yang et al., arXiv 2412.04467, method section).

    For each image the dominant tokens are CLS and the dominant - 1 patches with the largest
    cls_attention, in spatial order. Of the n other patches, `contextual` ones at the stride
    max(1, n // contextual) are targets; each of the rest is assigned to the target with the highest cosine of
    head_mean_keys. The contextual tokens follow, one for each target: the target plus the mean of the patches
    assigned to it. K = dominant + contextual, and `kept` names the dominant patches alone.

    `budget[i] = b`, where the batch brings one, is the number of TOKENS of image i, CLS and the contextual
    ones included: K = min(b, N) always. They are split as the two parameters are: b contextual //
    (dominant + contextual) are contextual, the others dominant, CLS first (b = 1: CLS alone). Parameters
    that add up to more than N count as a budget of N.

    Args:
        dominant: dominant tokens, CLS included; at least 1.
        contextual: contextual tokens; at least 0.

    Deviations from the published code:

    1. K never exceeds N (see above); the published code crashes.
    2. Among patches of equal attention the lower index is kept, and among equally near targets the first
       is taken; topk leaves that open.
    3. The cosine with a key of length 0 is 0, where the published code divides by zero.

    Attention is read and means are accumulated in float32, whatever the dtype of the patches.

    Raises:
        ValueError: on construction, naming the parameter; on call, naming the field that is missing or
            has the wrong shape, the image whose attention or keys are NaN or infinite, or the image whose
            budget is below 1.
    """

    dominant: int = 54
    contextual: int = 10

    needs: ClassVar[frozenset[str]] = frozenset({"cls", "cls_attention", "head_mean_keys"})

    def __post_init__(self) -> None:
        check_count("dominant", self.dominant)
        check_count("contextual", self.contextual, least=0)

    def __call__(self, x: VisualTokens) -> list[Reduced]:
        """Return one `Reduced` per image: tokens [K, D] in the dtype of the patches, kept [k] int64."""
        patches_BND = patches_of(x)
        batch, patches, width = patches_BND.shape
        cls_BD = require_field(x, "cls", batch, width, ndim=2).to(patches_BND.dtype)
        scores_BN = require_field(x, "cls_attention", batch, patches, ndim=2).float()
        keys_BNd = require_field(x, "head_mean_keys", batch, patches, ndim=3)
        tokens_B = budget_of(x)
        if tokens_B is None:
            own = min(self.dominant + self.contextual, patches)
            tokens_B = torch.full((batch,), own, device=patches_BND.device)
        contextual_B = tokens_B * self.contextual // (self.dominant + self.contextual)
        tokens, contextual = read(x, {"cls_attention": all_finite(scores_BN)}, tokens_B, contextual_B)
        dominant = [a - b - 1 for a, b in zip(tokens, contextual, strict=True)]
        kept_BN = top_mask(scores_BN, tokens_B - contextual_B - 1)
        place_BK = marked_places(kept_BN, max(dominant, default=0))
        rest_BN = marked_places(kept_BN.logical_not(), patches)
        finite_B = kept_BN.new_empty(batch)
        reduced = []
        for i in range(batch):
            kept_k, rest_n = place_BK[i, : dominant[i]].clone(), rest_BN[i, : patches - dominant[i]]
            unit_Nd, finite_B[i] = unit_vectors(keys_BNd[i])
            merged_tD = merge_groups(patches_BND[i, rest_n], unit_Nd[rest_n], contextual[i])
            reduced.append(Reduced(torch.cat([cls_BD[i : i + 1], patches_BND[i, kept_k], merged_tD]), kept_k))
        read(x, {"head_mean_keys": finite_B})
        return reduced


def merge_groups(rest_nD: Tensor, unit_nd: Tensor, contextual: int) -> Tensor:
    """Merge the patches of one image that are not dominant into `contextual` < n tokens.

    Args:
        rest_nD: [n, D] floating point.
        unit_nd: [n, d] their keys, from `unit_vectors`.
        contextual: t, how many tokens come out.

    Returns:
        [t, D] in the dtype of the patches.
    """
    if contextual == 0:
        return rest_nD[:0]
    target_t = torch.arange(contextual, device=rest_nD.device) * max(1, len(rest_nD) // contextual)
    is_other_n = torch.ones_like(rest_nD[:, 0], dtype=torch.bool).index_fill_(0, target_t, False)
    other_M = marked_places(is_other_n[None], len(rest_nD) - contextual)[0]
    nearest = (unit_nd[other_M] @ unit_nd[target_t].T).argmax(dim=-1)
    wide = torch.promote_types(rest_nD.dtype, torch.float32)
    mean_tD = group_means(rest_nD[other_M].to(wide), nearest, contextual)
    return (rest_nD[target_t].to(wide) + mean_tD).to(rest_nD.dtype)


def group_means(x_MD: Tensor, group_M: Tensor, groups: int) -> Tensor:
    """Average the rows of each group, [groups, D]; zeros for a group without rows.

    Rows of one group are added in pairs, then the pairs' sums, and so on: elementwise additions in an order
    that the groups alone decide, which index_add_ does not promise on a GPU.
    """
    rows = len(group_M)
    order_M = group_M.argsort(stable=True)
    group_M = group_M[order_M]
    # A last row, of no group, takes the additions that a group does not need.
    x_MD = torch.cat([x_MD[order_M], x_MD.new_zeros(1, x_MD.shape[1])])
    size_g = (group_M[:, None] == torch.arange(groups, device=group_M.device)).sum(0)
    first_g = size_g.cumsum(0) - size_g
    rank_M = torch.arange(rows, device=group_M.device) - first_g[group_M]
    step = 1
    while step < rows:
        adds_M = (rank_M % (2 * step) == 0) & (rank_M + step < size_g[group_M])
        # A group of s rows has at most (s + step - 1) / (2 step) of them.
        most = min(rows // 2, (rows + groups * (step - 1)) // (2 * step))
        into = marked_places(adds_M[None], most, fill=rows)[0]
        x_MD[into] += x_MD[(into + step).clamp_(max=rows)]
        step *= 2
    sum_gD = x_MD[first_g.clamp(max=rows)]
    return (sum_gD / size_g.clamp(min=1)[:, None]).masked_fill(size_g[:, None] == 0, 0)
