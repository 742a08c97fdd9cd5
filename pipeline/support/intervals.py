"""Computes bootstrap percentile intervals of figures made of sums over units (Efron, 1979).

A figure is an array [R + 1]: its value, then its value in each of R resamples. Arithmetic on figures is
numpy's; `interval` makes an interval of one. All sums use the same draws.
"""

from collections.abc import Hashable, Mapping
from typing import NotRequired, TypedDict, TypeVar

import numpy as np
from numpy.typing import NDArray

LEVEL = 0.95
_CELLS = 1 << 22  # of the matrix of draws: the most that is in memory at a time

Name = TypeVar("Name", bound=Hashable)
Figure = NDArray[np.float64]  # [R + 1]
Column = NDArray[np.generic]  # [N], of numbers or booleans


class Interval(TypedDict):
    """Holds a figure as JSON files do; without `low` and `high` if nothing was resampled."""

    value: float
    low: NotRequired[float]
    high: NotRequired[float]


def resampled_sums(
    columns: Mapping[Name, tuple[Column, ...]], *, resamples: int, seed: int
) -> dict[Name, Figure]:
    """Sum each column over all units, and over the units of each resample: [R + 1].

    Args:
        columns: each the product of arrays [N], so that a masked column needs no copy.
        resamples: R, how many times N units are drawn with replacement. A multinomial distributes each
            resample's draws over blocks of units, which is the same as drawing from all of them.
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
        weights = np.vstack([np.ones(sizes[number]), _draw_counts(rng, draws[:, number], sizes[number])])
        part = slice(start, start + sizes[number])
        sums += weights @ np.column_stack([_product(arrays, part) for arrays in columns.values()])
    return dict(zip(columns, sums.T, strict=True))


def _draw_counts(rng: np.random.Generator, draws: NDArray[np.int64], size: int) -> NDArray[np.intp]:
    """Draw units of a block; how often each of `size` units was drawn in each resample: [R, size]."""
    places = rng.integers(size, size=draws.sum())
    cells = np.repeat(np.arange(len(draws)), draws) * size + places
    return np.bincount(cells, minlength=len(draws) * size).reshape(len(draws), size)


def _product(arrays: tuple[Column, ...], part: slice) -> Figure:
    product: Figure = np.prod([array[part].astype(np.float64) for array in arrays], axis=0)
    return product


def quotient(part: Figure, whole: Figure) -> Figure:
    """Return `part / whole`, NaN where `whole` is 0."""
    result: Figure = np.divide(part, whole, out=np.full(len(part), np.nan), where=whole != 0)
    return result


def interval(figure: Figure) -> Interval | None:
    """Return a figure's value and the middle 95 % of its resamples; None if the value is undefined.

    Undefined resamples are left out. Numbers are rounded to 12 digits, so that the order of summation does
    not matter.
    """
    if np.isnan(figure[0]):
        return None
    resampled = figure[1:][~np.isnan(figure[1:])]
    if not len(resampled):
        return {"value": _rounded(figure[0])}
    low, high = np.quantile(resampled, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return {"value": _rounded(figure[0]), "low": _rounded(low), "high": _rounded(high)}


def difference(values: Figure, others: Figure, units: NDArray[np.integer], *, resamples: int) -> Interval:
    """Return how much larger the mean of `values` is than that of `others`, paired, with its interval.

    Args:
        values, others: [N] a value for each request.
        units: [N] from 0: requests of one unit are drawn together, such as all about a picture.
    """
    columns = {"gain": (np.bincount(units, values - others),), "count": (np.bincount(units),)}
    sums = resampled_sums(columns, resamples=resamples, seed=0)
    gain = interval(quotient(sums["gain"], sums["count"]))
    assert gain is not None, "no requests"
    return gain


def _rounded(number: float) -> float:
    return float(f"{number:.12g}")
