"""A metric's figures of what was kept, with the intervals that drawing units again gives them.

U units, c numbers of each, G groups, R resamples.
"""

from typing import Any

import numpy as np

from pipeline.evaluate.base import Figures, Metric
from pipeline.evaluate.tally import Kept
from pipeline.support.errors import ConfigError
from pipeline.support.intervals import LEVEL, interval, resampled_sums

_ALL = ""  # beside the groups, whose names are not empty


def figures_of(metric: Metric, kept: Kept, *, resamples: int, seed: int) -> dict[str, Any]:
    """Figures with intervals, of all units and of each group; ConfigError if nothing could be scored."""
    if not kept.count:
        raise ConfigError("output: none of its questions has a known answer")
    units, groups = kept.units(), kept.groups()
    told = spread(metric, units, groups, resamples=resamples, seed=seed)
    return {
        "scored": kept.count,
        "units": len(units),
        "bootstrap": {"resamples": resamples, "seed": seed, "level": LEVEL},
        "figures": told.pop(_ALL),
        "groups": {name: {"units": len(groups[name]), "figures": figures} for name, figures in told.items()},
        "notes": list(metric.notes),
    }


def spread(
    metric: Metric, units: np.ndarray, groups: dict[str, np.ndarray], *, resamples: int, seed: int
) -> dict[str, dict[str, Any]]:
    """The figures of each group, and under "" those of everything, as `interval` tells them.

    Args:
        units: [U, c + 1] what is kept of each unit, the last column being 1.
        groups: the units of each group, by their rows in `units`.
    """
    masks = {_ALL: np.ones(len(units), np.uint8)} | {
        name: np.bincount(rows, minlength=len(units)).astype(np.uint8) for name, rows in groups.items()
    }
    columns = {
        (name, number): (mask, units[:, number])
        for name, mask in masks.items()
        for number in range(units.shape[1])
    }
    sums = resampled_sums(columns, resamples=resamples, seed=seed)
    drawn: dict[str, list[Figures]] = {name: [] for name in masks}
    for draw in range(resamples + 1):
        for name, seen in drawn.items():
            seen.append(
                metric.figures(np.array([sums[name, number][draw] for number in range(units.shape[1])]))
            )
        drawn[_ALL][-1] |= metric.summary({name: drawn[name][-1] for name in groups})
    return {name: _intervals(seen) for name, seen in drawn.items()}


def _intervals(drawn: list[Figures]) -> dict[str, Any]:
    """Each figure that is defined, with the middle 95 % of the draws."""
    found = {name: interval(np.array([figures[name] for figures in drawn])) for name in drawn[0]}
    return {name: figure for name, figure in found.items() if figure is not None}
