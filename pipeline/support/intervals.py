"""Percentile intervals of what follows from sums over units, such as requests (Efron, 1979).

A figure is an array of R + 1 numbers: its value, then what it is in each of R resamples. Arithmetic on
figures is numpy's; `interval` reads one off. The draws are the same for every sum.
"""

from collections.abc import Hashable, Mapping
from typing import TypeVar

import numpy as np

LEVEL = 0.95
_CELLS = 1 << 22  # of the matrix of draws that is in memory at a time, whatever the number of units

Name = TypeVar("Name", bound=Hashable)


def resampled_sums(
    columns: Mapping[Name, tuple[np.ndarray, ...]], *, resamples: int, seed: int
) -> dict[Name, np.ndarray]:
    """The sum of each column over all units, and over those of each resample: [R + 1].

    Args:
        columns: each the product of arrays [N], so that a masked column takes no memory of its own.
        resamples: R, how many times N units are drawn with replacement. Each draw falls into blocks of
            units by a multinomial and then evenly within a block, which is the same as drawing from all.
    """
    (count,) = {len(array) for product in columns.values() for array in product}
    if not count:
        return {name: np.zeros(resamples + 1) for name in columns}
    size = max(1, min(count, _CELLS // (resamples + 1)))
    starts = range(0, count, size)
    rng = np.random.default_rng(seed)
    sizes = np.array([min(size, count - start) for start in starts])
    draws = rng.multinomial(count, sizes / count, size=resamples)
    sums = np.zeros((resamples + 1, len(columns)))
    for number, start in enumerate(starts):
        weights = np.vstack([np.ones(sizes[number]), _drawn(rng, draws[:, number], sizes[number])])
        part = slice(start, start + sizes[number])
        sums += weights @ np.column_stack([_product(arrays, part) for arrays in columns.values()])
    return dict(zip(columns, sums.T, strict=True))


def _drawn(rng: np.random.Generator, draws: np.ndarray, size: int) -> np.ndarray:
    """How often each of `size` units is drawn in each resample, [R, size]."""
    places = rng.integers(size, size=draws.sum())
    cells = np.repeat(np.arange(len(draws)), draws) * size + places
    return np.bincount(cells, minlength=len(draws) * size).reshape(len(draws), size)


def _product(arrays: tuple[np.ndarray, ...], part: slice) -> np.ndarray:
    return np.prod([array[part].astype(np.float64) for array in arrays], axis=0)


def quotient(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """`part / whole`, NaN where there is nothing to divide by."""
    return np.divide(part, whole, out=np.full(len(part), np.nan), where=whole != 0)


def interval(figure: np.ndarray) -> dict[str, float] | None:
    """Value and the middle 95 % of the resamples in which it is defined; None if it is not defined itself.

    Numbers have 12 digits, so that what is equal but for the order of its summation is equal.
    """
    if np.isnan(figure[0]):
        return None
    drawn = figure[1:][~np.isnan(figure[1:])]
    if not len(drawn):
        return {"value": _rounded(figure[0])}
    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return {"value": _rounded(figure[0]), "low": _rounded(low), "high": _rounded(high)}


def difference(one: np.ndarray, other: np.ndarray, units: np.ndarray, *, resamples: int) -> dict[str, float]:
    """How much larger the mean of `one` is than that of `other`, paired, with its interval.

    Args:
        one, other: [N] a value for each request.
        units: [N] int, from 0: what is drawn whole, such as all requests about a picture.
    """
    columns = {"gain": (np.bincount(units, one - other),), "count": (np.bincount(units),)}
    sums = resampled_sums(columns, resamples=resamples, seed=0)
    found = interval(quotient(sums["gain"], sums["count"]))
    assert found is not None, "there are requests"
    return found


def _rounded(number: float) -> float:
    return float(f"{number:.12g}")
