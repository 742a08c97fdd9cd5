"""TrimCover: TRIM's relevance and TRIM's number of patches, but no two patches that say the same.

Shapes: B images, N patches, D vision width, P joint CLIP width, K patches chosen of one image.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from trim.cosine import cosines
from trim.host import all_finite, read
from trim.select import budget_of, keep_patches, mean_of_rest, patches_of, picked_mask, require_field
from trim.trim import Trim, text_scores
from trim.types import Reduced, VisualTokens

_SAME = 1e-3  # a lower bound of 1 - cosine: duplicates count as this far apart


@dataclass(frozen=True)
class TrimCover:
    """TRIM (arXiv 2409.10994) with coverage. Our own; not published.

    How many patches stay is TRIM's to say: its interquartile-range rule, a fixed number, or the budget. Which
    ones is decided greedily: the first is the one with the highest TRIM logit l = sign (metric . text), each
    next one has the highest

        l + diversity * log(1 - (largest cosine with a chosen patch)),

    cosines being those of `patches`. With diversity = 0 it is TRIM. As in TRIM the kept patches stand in
    spatial order, and the mean of the others follows them.

    Args:
        diversity: at least 0 and finite; in units of l, how much a patch loses when its distance to the
            chosen ones is divided by e. The default was the best of 0.03 to 30 on the demo model's validation
            scenes.
        keep_ratio, num_kept, sign, iqr_factor, aggregate: as in `Trim`.

    Raises:
        ValueError: on construction, naming the parameter; on call, naming the field that is missing or has
            the wrong shape, or the image with NaN or infinite scores or patches or a budget below 1.
    """

    diversity: float = 10.0
    keep_ratio: float | None = None
    num_kept: int | None = None
    sign: int = -1
    iqr_factor: float = 1.5
    aggregate: bool = True

    needs: ClassVar[frozenset[str]] = frozenset({"metric", "text"})

    def __post_init__(self) -> None:
        if not (math.isfinite(self.diversity) and self.diversity >= 0):
            raise ValueError(f"diversity must be finite and at least 0, not {self.diversity!r}")
        self._rule()

    def _rule(self) -> Trim:
        return Trim(
            keep_ratio=self.keep_ratio,
            num_kept=self.num_kept,
            sign=self.sign,
            iqr_factor=self.iqr_factor,
            aggregate=self.aggregate,
        )

    def __call__(self, x: VisualTokens) -> list[Reduced]:
        """Return one `Reduced` per image: tokens [K, D] in the dtype of the patches, kept [c] int64."""
        patches_BND = patches_of(x)
        batch, patches, _ = patches_BND.shape
        metric_BNP = require_field(x, "metric", batch, patches, ndim=3)
        text_BP = require_field(x, "text", batch, metric_BNP.shape[-1], ndim=2)
        logits_BN = self.sign * text_scores(metric_BNP, text_BP, normalize=False)
        count_B = self._rule().counts(logits_BN, budget_of(x)).clamp(max=patches)
        cosine_BNN, finite_B = cosines(patches_BND)
        (count,) = read(x, {"metric and text": all_finite(logits_BN), "patches": finite_B}, count_B)
        picked_BK = cover(logits_BN, cosine_BNN, self.diversity, max(count, default=0))
        kept_BN = picked_mask(picked_BK, count_B, patches)
        mean_BD = mean_of_rest(patches_BND, kept_BN) if self.aggregate else None
        return keep_patches(patches_BND, kept_BN, count, mean_BD)


def cover(logits_BN: Tensor, cosine_BNN: Tensor, diversity: float, count: int) -> Tensor:
    """Choose `count` <= N patches greedily; returns [B, count] int64 in the order of choice.

    What is chosen first does not depend on how many are chosen; among equals the lower index goes first.
    """
    image_B = torch.arange(len(logits_BN), device=logits_BN.device)
    picked_BK = image_B.new_empty(len(image_B), count)
    logits_BN = logits_BN.double()
    nearest_BN = torch.zeros_like(
        logits_BN
    )  # largest cosine with a chosen patch; opposites count as strangers
    taken_BN = torch.zeros_like(logits_BN, dtype=torch.bool)
    for place in range(count):
        gain_BN = logits_BN + diversity * (1 - nearest_BN).clamp(min=_SAME).log()
        choice_B = gain_BN.masked_fill(taken_BN, -torch.inf).argmax(-1)
        picked_BK[:, place] = choice_B
        taken_BN.scatter_(1, choice_B[:, None], True)
        nearest_BN = torch.maximum(nearest_BN, cosine_BNN[image_B, choice_B])
    return picked_BK
