"""Random: keep patches by chance, a control that shows how much a good choice is worth.

Shapes: B images, N patches, D vision width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from trim.host import read
from trim.select import (
    budget_of,
    check_size,
    fixed_count,
    is_whole,
    keep_patches,
    patches_of,
    require_field,
    top_mask,
)
from trim.types import Reduced, VisualTokens


@dataclass(frozen=True)
class Random:
    """Keeps patches drawn uniformly without replacement, in spatial order, and merges nothing.

    An image's draw is a function of `seed` and its `identity` only: not of its batch, the order of the
    images, the device or torch's own generator. A smaller draw of the same seed and identity is a subset
    of a larger one.

    Args:
        keep_ratio: keeps int(N keep_ratio) patches, at least one; 0 < keep_ratio <= 1.
        num_kept: keeps min(num_kept, N) patches; at least 1. Exactly one of the two must be given.
        seed: 0 <= seed < 2**63.

    `budget`, where the batch brings one, overrides both: image i keeps min(budget[i], N) patches.

    Raises:
        ValueError: on construction, naming the parameter; on call, naming the field that is missing, has
            the wrong shape or dtype, or holds a budget below 1.
    """

    keep_ratio: float | None = None
    num_kept: int | None = None
    seed: int = 0

    needs: ClassVar[frozenset[str]] = frozenset({"identity"})

    def __post_init__(self) -> None:
        check_size(self.keep_ratio, self.num_kept)
        if self.keep_ratio is None and self.num_kept is None:
            raise ValueError("keep_ratio or num_kept must be given")
        if not is_whole(self.seed) or not 0 <= self.seed < 2**63:
            raise ValueError(f"seed must be a whole number in [0, 2**63), not {self.seed!r}")

    def __call__(self, x: VisualTokens) -> list[Reduced]:
        """Return one `Reduced` per image: tokens [K, D] and kept [K], K as described above."""
        patches_BND = patches_of(x)
        batch, patches, _ = patches_BND.shape
        identity_B = require_field(x, "identity", batch)
        if identity_B.dtype != torch.int64 or identity_B.ndim != 1:
            raise ValueError(f"VisualTokens.identity must be [B] int64, not {identity_B.dtype}")
        count_B = budget_of(x)
        if count_B is None:
            own = max(1, fixed_count(self.keep_ratio, self.num_kept, patches) or 0)
            count_B = torch.full((batch,), own, device=patches_BND.device)
            count = [own] * batch
        else:
            (count,) = read(x, {}, count_B)
        lots_BN = draw_lots(self.seed, identity_B.to(patches_BND.device), patches)
        return keep_patches(patches_BND, top_mask(lots_BN, count_B), count)


def draw_lots(seed: int, identity_B: Tensor, patches: int) -> Tensor:
    """Draw a pseudo-random int64 for each patch, [B, N], from a counter-based generator.

    Integer arithmetic that wraps at 64 bits gives the same numbers on every device and in every release
    of torch, which torch.Generator does not promise; and it needs no loop over images.
    """
    start = int(scramble(torch.tensor(seed)))
    stream_B1 = scramble(start ^ identity_B)[:, None]
    counter_N = torch.arange(1, patches + 1, device=identity_B.device)
    return scramble(stream_B1 + counter_N * _GOLDEN_GAMMA)


def _signed(bits: int) -> int:
    return bits - 2**64 if bits >= 2**63 else bits


# SplitMix64's constants (Steele, Lea, Flood, "Fast splittable pseudorandom number generators", 2014).
_GOLDEN_GAMMA = _signed(0x9E3779B97F4A7C15)
_MIX_1 = _signed(0xBF58476D1CE4E5B9)
_MIX_2 = _signed(0x94D049BB133111EB)


def scramble(z: Tensor) -> Tensor:
    """Apply SplitMix64's output function, a bijection of the 64-bit integers; any shape, int64."""

    def shifted(z: Tensor, bits: int) -> Tensor:
        # torch shifts int64 arithmetically: clear the copies of the sign.
        return (z >> bits) & ((1 << (64 - bits)) - 1)

    z = (z ^ shifted(z, 30)) * _MIX_1
    z = (z ^ shifted(z, 27)) * _MIX_2
    return z ^ shifted(z, 31)
