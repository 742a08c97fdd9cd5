"""Full: keep all patches, the baseline that every other reducer is compared with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from trim.select import patches_of
from trim.types import Reduced, VisualTokens


@dataclass(frozen=True)
class Full:
    """Keeps all N patches in spatial order, so K = N and kept = 0 .. N - 1.

    A budget is ignored: with fewer tokens it would no longer be the full arm.

    Raises:
        ValueError: on call, if `patches` is not [B, N >= 1, D].
    """

    needs: ClassVar[frozenset[str]] = frozenset()

    def __call__(self, x: VisualTokens) -> list[Reduced]:
        """Return one `Reduced` per image; its tokens are a view of the batch's patches."""
        patches_BND = patches_of(x)
        every_N = torch.arange(patches_BND.shape[1], device=patches_BND.device)
        return [Reduced(patches_ND, every_N.clone()) for patches_ND in patches_BND]
