"""Percentile intervals of any figure, by resampling units (Efron, 1979)."""

from collections.abc import Mapping

import numpy as np

from pipeline.evaluate.base import Figures, Metric

LEVEL = 0.95

Interval = tuple[float, float]


def intervals(
    metric: Metric, units: np.ndarray, groups: Mapping[str, np.ndarray], *, resamples: int, seed: int
) -> tuple[dict[str, Interval], dict[str, dict[str, Interval]]]:
    """95 % intervals of all figures together and of each group's.

    Args:
        units: [U, c + 1] what is kept of each unit, the last column being 1.
        groups: the units of each group, by their rows in `units`.
        resamples: how many times U units are drawn with replacement, the same draws for all figures.
    """
    rng = np.random.default_rng(seed)
    everything: list[Figures] = []
    by_group: dict[str, list[Figures]] = {name: [] for name in groups}
    for _ in range(resamples):
        drawn = np.bincount(rng.integers(len(units), size=len(units)), minlength=len(units))
        told = {name: metric.figures(drawn[rows] @ units[rows]) for name, rows in groups.items()}
        everything.append(metric.figures(drawn @ units) | metric.summary(told))
        for name, figures in told.items():
            by_group[name].append(figures)
    return _percentiles(everything), {name: _percentiles(drawn) for name, drawn in by_group.items()}


def _percentiles(drawn: list[Figures]) -> dict[str, Interval]:
    """The middle 95 % of each figure, of the draws in which it is defined."""
    found = {}
    for name in drawn[0] if drawn else ():
        values = np.array([figures[name] for figures in drawn])
        values = values[~np.isnan(values)]
        edges = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]) if len(values) else [np.nan, np.nan]
        found[name] = (float(edges[0]), float(edges[1]))
    return found
