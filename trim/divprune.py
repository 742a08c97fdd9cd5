"""DivPrune: keep the patches that are farthest from one another, whatever they show.

Shapes: B images, N patches, H language model width, K patches chosen of one image.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from trim.cosine import cosines
from trim.host import read
from trim.select import budget_of, check_count, keep_patches, patches_of, picked_mask, require_field
from trim.types import Reduced, VisualTokens


@dataclass(frozen=True)
class DivPrune:
    """Diversity-based pruning (Alvar et al., arXiv 2503.02175, method section).

    A greedy solution of the max-min diversity problem over the cosine distance of `embeddings`: the first
    patch is the one whose nearest neighbour is farthest, each next one that whose nearest chosen patch is
    farthest. The chosen patches stay in spatial order; nothing is merged.

    Args:
        num_kept: keeps min(num_kept, N) patches; at least 1.

    `budget`, where the batch brings one, overrides it: image i keeps min(budget[i], N) patches.

    Deviations from the published code:

    1. The size is a number of patches; the published code takes a share of N and rounds it.
    2. A patch is chosen once; the published code may choose it again if all others equal chosen ones.
    3. Among patches at equal distance the lower index is chosen; argmax leaves that open.
    4. The cosine with an embedding of length 0 is 0, where the published code divides by zero.
    5. Cosines are exact. The published code has them in the model's float16, in steps of 2**-11, where many
       patches tie that are apart here: some four fifths to nine tenths of its choices are those made here. In
       float32 all are, unless patches are closer than it can tell.

    Raises:
        ValueError: on construction, naming the parameter; on call, naming the field that is missing or
            has the wrong shape, the image whose embeddings are NaN or infinite, or the image whose budget
            is below 1.
    """

    num_kept: int

    needs: ClassVar[frozenset[str]] = frozenset({"embeddings"})

    def __post_init__(self) -> None:
        check_count("num_kept", self.num_kept)

    def __call__(self, x: VisualTokens) -> list[Reduced]:
        """Return one `Reduced` per image: tokens [K, D] in the dtype of the patches, kept [K] int64."""
        patches_BND = patches_of(x)
        batch, patches, _ = patches_BND.shape
        embeddings_BNH = require_field(x, "embeddings", batch, patches, ndim=3)
        count_B = budget_of(x)
        if count_B is None:
            count_B = torch.full((batch,), min(self.num_kept, patches), device=patches_BND.device)
        cosine_BNN, finite_B = cosines(embeddings_BNH)
        (count,) = read(x, {"embeddings": finite_B}, count_B)
        picked_BK = pick_farthest(cosine_BNN, max(count, default=0))
        return keep_patches(patches_BND, picked_mask(picked_BK, count_B, patches), count)


def pick_farthest(cosine_BNN: Tensor, count: int) -> Tensor:
    """Choose `count` <= N patches by greedy max-min; returns [B, count] int64 in the order of choice.

    The largest cosine is the smallest distance 1 - cosine, without its rounding. What is chosen first does
    not depend on how many are chosen. The diagonal of `cosine_BNN` is overwritten.
    """
    batch, patches, _ = cosine_BNN.shape
    image_B = torch.arange(batch, device=cosine_BNN.device)
    picked_BK = image_B.new_empty(batch, count)
    cosine_BNN.diagonal(dim1=1, dim2=2).fill_(-torch.inf)  # a patch is not its own neighbour
    choice_B = cosine_BNN.amax(-1).argmin(-1)
    nearest_BN = cosine_BNN.new_full((batch, patches), -torch.inf)  # largest cosine with a chosen patch
    for place in range(count):
        picked_BK[:, place] = choice_B
        nearest_BN = torch.maximum(nearest_BN, cosine_BNN[image_B, choice_B])
        nearest_BN.scatter_(1, choice_B[:, None], torch.inf)  # never again
        choice_B = nearest_BN.argmin(-1)
    return picked_BK
