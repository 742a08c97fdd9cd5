"""Cosines whose every bit is the same in any batch, thread count, kernel and device.

A matrix product's bits depend on the order in which its kernel adds, and that on the shapes, the alignment
and the threads. Here no addition rounds, so the order does not matter: unit vectors are rounded to multiples
of 2**-26, all products and all partial sums are then multiples of 2**-52, below 2 by Cauchy-Schwarz, and
float64 holds such numbers exactly. The rounding costs a cosine about 2**-27, less than float32 does.

Shapes: B images, N patches, D width of what is compared.
"""

from __future__ import annotations

import torch
from torch import Tensor

from trim.select import ordered_dot

_GRID = 2.0**26


def unit_vectors(x_ND: Tensor) -> tuple[Tensor, Tensor]:
    """Scale one image's rows to length 1 and round them to a grid on which dot products are exact.

    Args:
        x_ND: [N, D] floating point, read as float32.

    Returns:
        [N, D] float64, in which a row of zeros stays one, so that its cosine with everything is 0.
        [] bool: whether all numbers were finite; if not, the first result means nothing.
    """
    wide_ND = x_ND.detach().float().to(torch.float64, copy=True)
    length_N = ordered_dot(wide_ND, wide_ND).sqrt()
    finite = length_N.isfinite().all()
    unit_ND = wide_ND.div_(length_N.masked_fill(length_N == 0, 1)[:, None]).mul_(_GRID).round_().div_(_GRID)
    return unit_ND, finite


def cosines(x_BND: Tensor) -> tuple[Tensor, Tensor]:
    """Compute the cosines of all pairs of patches of each image.

    Takes 8 B N N bytes, and 24 N D more for one image at a time.

    Returns:
        [B, N, N] float64, exactly symmetric.
        [B] bool: whether all numbers of an image were finite; if not, its cosines mean nothing.
    """
    batch, patches, _ = x_BND.shape
    cosine_BNN = x_BND.new_empty(batch, patches, patches, dtype=torch.float64)
    finite_B = x_BND.new_empty(batch, dtype=torch.bool)
    for i, x_ND in enumerate(x_BND):
        unit_ND, finite_B[i] = unit_vectors(x_ND)
        cosine_BNN[i] = unit_ND @ unit_ND.T
    return cosine_BNN, finite_B
