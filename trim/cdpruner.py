"""CDPruner: keep patches that belong to the question and differ from one another.

Shapes: B images, N patches, P joint CLIP width, H language model width, K patches chosen of one image.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from trim.cosine import cosines
from trim.host import all_finite, read
from trim.select import (
    budget_of,
    check_count,
    check_sign,
    keep_patches,
    ordered_sum,
    patches_of,
    picked_mask,
    require_field,
)
from trim.trim import text_scores
from trim.types import Reduced, VisualTokens

_RANGE_FLOOR = 1e-6  # as published, so that even the least relevant patch has a positive relevance
_SPENT = 1e-12  # below this share of its variance, a patch counts as having none left


@dataclass(frozen=True)
class CDPruner:
    """Conditional diversity (Zhang et al., arXiv 2506.10967, method section).

    For each image r = sign cosine(metric, text), moved to the range from 0 to 1, is the relevance of its
    patches, S the cosines of their `embeddings`, and L = diag(r) S diag(r) the kernel of a determinantal
    point process. Patches are chosen one by one, each time the one that enlarges det(L of the chosen) most
    (greedy MAP: Chen et al., arXiv 1709.05135, algorithm 1). They stay in spatial order; nothing is merged.

    Args:
        num_kept: keeps min(num_kept, N) patches; at least 1.
        sign: -1, as published, because CLIP's penultimate patches score lower on what the text names; +1 for
            a CLIP whose patches score higher on it. `Trim` has the evidence.

    `budget`, where the batch brings one, overrides it: image i keeps min(budget[i], N) patches.

    Deviations from the published code:

    1. Relevance is scaled by the least and the largest of its own image; the published code takes those
       of the batch.
    2. It is (r - min + 1e-6) / (max - min + 1e-6); the published code leaves out the second 1e-6. That
       multiplies L by a constant, which changes no choice, but equal relevances are 1 instead of infinite.
    3. Once what is left of every patch is a combination of chosen ones (less than 1e-12 of its L_jj), the
       most relevant follow; the published code then divides by rounding noise or takes roots of
       negative numbers.
    4. Among equals the lower index is chosen; argmax leaves that open.
    5. The cosine with a vector of length 0 is 0, where the published code divides by zero.

    The text. The published evaluation (repository Theia-4869/CDPruner, llava/eval/) gives CLIP the question
    without the suffix, in model_vqa_loader.py, model_vqa_science.py and model_vqa_mmbench.py. It reads all of
    it: clip_encoder.py splits a long text every 77 tokens, and relevance is the mean of the pieces' cosines.
    Here that is clip_text.text=bare clip_text.long=windows, not the defaults. Two differences stay:

    - of VizWiz's suffix the published code removes the last line alone; `bare` removes both;
    - the pieces of a long text have begin and end tokens of their own here, the published ones have not.

    A weight of relevance against diversity (theta) is commented out in the published code, and is not here.

    Relevance is computed in float32 and the choice is made in float64.

    Raises:
        ValueError: on construction, naming the parameter; on call, naming the field that is missing or
            has the wrong shape, the image whose relevance or embeddings are NaN or infinite, or the image
            whose budget is below 1.
    """

    num_kept: int
    sign: int = -1

    needs: ClassVar[frozenset[str]] = frozenset({"metric", "text", "embeddings"})

    def __post_init__(self) -> None:
        check_count("num_kept", self.num_kept)
        check_sign(self.sign)

    def __call__(self, x: VisualTokens) -> list[Reduced]:
        """Return one `Reduced` per image: tokens [K, D] in the dtype of the patches, kept [K] int64."""
        patches_BND = patches_of(x)
        batch, patches, _ = patches_BND.shape
        metric_BNP = require_field(x, "metric", batch, patches, ndim=3)
        text_BP = require_field(x, "text", batch, metric_BNP.shape[-1], ndim=2)
        embeddings_BNH = require_field(x, "embeddings", batch, patches, ndim=3)
        count_B = budget_of(x)
        if count_B is None:
            count_B = torch.full((batch,), min(self.num_kept, patches), device=patches_BND.device)
        scores_BN = text_scores(metric_BNP, text_BP, normalize=True)
        cosine_BNN, finite_B = cosines(embeddings_BNH)
        (count,) = read(x, {"metric and text": all_finite(scores_BN), "embeddings": finite_B}, count_B)
        picked_BK = greedy_map(relevance(self.sign * scores_BN), cosine_BNN, max(count, default=0))
        return keep_patches(patches_BND, picked_mask(picked_BK, count_B, patches), count)


def relevance(signed_BN: Tensor) -> Tensor:
    """Score how well each patch fits the text, [B, N] float64 in (0, 1], from their signed cosine."""
    wide_BN = signed_BN.double()
    low_B1, high_B1 = wide_BN.amin(-1, keepdim=True), wide_BN.amax(-1, keepdim=True)
    return (wide_BN - low_B1 + _RANGE_FLOOR) / (high_B1 - low_B1 + _RANGE_FLOOR)


def greedy_map(relevance_BN: Tensor, cosine_BNN: Tensor, count: int) -> Tensor:
    """Choose `count` <= N patches greedily; returns [B, count] int64 in the order of choice.

    Each step adds one row to the Cholesky factor of L at the chosen patches, extended to all N; the
    variance is what L's diagonal has left then, the factor by which choosing that patch multiplies the
    determinant. What is chosen first does not depend on how many are chosen.

    Args:
        relevance_BN: [B, N] float64 in (0, 1].
        cosine_BNN: [B, N, N] float64, from `cosines`.
        count: K.
    """
    batch, patches = relevance_BN.shape
    image_B = torch.arange(batch, device=relevance_BN.device)
    picked_BK = image_B.new_empty(batch, count)
    factor_KBN = relevance_BN.new_empty(count, batch, patches)
    variance_BN = relevance_BN.square() * cosine_BNN.diagonal(dim1=1, dim2=2)
    spent_BN = variance_BN * _SPENT
    taken_BN = torch.zeros_like(variance_BN, dtype=torch.bool)
    for place in range(count):
        # Relevance - 2 is below all variances, so it decides among patches that have none left.
        gain_BN = torch.where(variance_BN > spent_BN, variance_BN, relevance_BN - 2)
        choice_B = gain_BN.masked_fill(taken_BN, -torch.inf).argmax(-1)
        picked_BK[:, place] = choice_B
        taken_BN.scatter_(1, choice_B[:, None], True)
        row_BN = relevance_BN[image_B, choice_B, None] * cosine_BNN[image_B, choice_B] * relevance_BN
        before_KBN = factor_KBN[:place]
        row_BN -= ordered_sum(before_KBN * before_KBN[:, image_B, choice_B, None], dim=0)
        left_B, spent_B = variance_BN[image_B, choice_B], spent_BN[image_B, choice_B]
        row_BN = row_BN / left_B.masked_fill(left_B <= spent_B, torch.inf).sqrt()[:, None]
        factor_KBN[place] = row_BN  # zeros, if the choice had no variance left
        variance_BN = variance_BN - row_BN.square()
    return picked_BK
