"""Computes a metric's figures with bootstrap intervals over units.

U units, c numbers of each, G groups, R resamples.
"""

from collections.abc import Mapping
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray

from pipeline.evaluate.base import Figures, Metric, Numbers
from pipeline.evaluate.tally import Tally
from pipeline.support.errors import ConfigError
from pipeline.support.intervals import LEVEL, Interval, interval, resampled_sums

_ALL = ""  # beside the groups, whose names are not empty


class GroupScores(TypedDict):
    """Holds the figures of one subtask, category or answer type in evaluation.json."""

    units: int
    figures: dict[str, Interval]


class ScoresJson(TypedDict, total=False):
    """Holds the figures of evaluation.json; only `figures` and `groups`, both empty, if nothing is scored."""

    scored: int
    units: int
    bootstrap: dict[str, float]
    figures: dict[str, Interval]
    groups: dict[str, GroupScores]
    notes: list[str]


def scores_of(metric: Metric, tally: Tally, *, resamples: int, seed: int) -> ScoresJson:
    """Compute figures with intervals over all units and each group; ConfigError if nothing was scored."""
    if not tally.count:
        raise ConfigError("output: none of its questions has a known answer")
    units, groups = tally.units(), tally.groups()
    by_group = group_intervals(metric, units, groups, resamples=resamples, seed=seed)
    return {
        "scored": tally.count,
        "units": len(units),
        "bootstrap": {"resamples": resamples, "seed": seed, "level": LEVEL},
        "figures": by_group.pop(_ALL),
        "groups": {
            name: {"units": len(groups[name]), "figures": figures} for name, figures in by_group.items()
        },
        "notes": list(metric.notes),
    }


def group_intervals(
    metric: Metric,
    units: Numbers,
    groups: Mapping[str, NDArray[np.int64]],
    *,
    resamples: int,
    seed: int,
) -> dict[str, dict[str, Interval]]:
    """Compute the figures of each group, and under "" those of all units, with their intervals.

    Args:
        units: [U, c + 1] the numbers of each unit, the last column being 1.
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
        for name, of_group in drawn.items():
            of_group.append(
                metric.figures(np.array([sums[name, number][draw] for number in range(units.shape[1])]))
            )
        drawn[_ALL][-1] |= metric.summary({name: drawn[name][-1] for name in groups})
    return {name: _intervals(of_group) for name, of_group in drawn.items()}


def _intervals(drawn: list[Figures]) -> dict[str, Interval]:
    """Pair each defined figure with the middle 95 % of its draws."""
    figures = {name: interval(np.array([draw[name] for draw in drawn])) for name in drawn[0]}
    return {name: figure for name, figure in figures.items() if figure is not None}
