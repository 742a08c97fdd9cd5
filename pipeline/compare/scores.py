"""The arms' answers against a dataset's references: figures for each arm, and paired differences."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.evaluate.base import Answered, Dataset, Metric
from pipeline.evaluate.evaluate import figures_of
from pipeline.evaluate.join import Join, choose_join
from pipeline.evaluate.tally import Kept
from pipeline.output.opened import Output
from pipeline.storage.uris import Storage
from pipeline.support.errors import ConfigError
from pipeline.support.intervals import interval, resampled_sums

_COLUMNS = [column.name for column in fields(Answered)]


class Scores:
    """Scores joined units as they come; every request must be one of the references."""

    def __init__(self, metric: Metric, join: Join, arms: Iterable[str]) -> None:
        self.kept = {arm: Kept(metric) for arm in arms}
        self._metric, self._join = metric, join

    def add(self, tables: Mapping[str, pa.Table]) -> dict[str, list[float | None]]:
        """Each arm's score of each of a unit's requests; None where the answer is not known.

        Raises:
            ConfigError: a request is not among the references, or is there twice.
        """
        rows = {arm: _answered(table) for arm, table in tables.items()}
        references = [self._join.match(row) for row in next(iter(rows.values()))]
        return {
            arm: [
                self._score(self.kept[arm].add(row, reference))
                for row, reference in zip(own, references, strict=True)
            ]
            for arm, own in rows.items()
        }

    def _score(self, observed: Sequence[float] | None) -> float | None:
        """The first of the metric's figures that is defined for a request by itself."""
        if observed is None:
            return None
        pool = self._metric.pool
        unit = observed if pool is None else pool(np.array([observed]))
        figures = self._metric.figures(np.array([*unit, 1.0])).values()
        return next((float(value) for value in figures if not math.isnan(value)), None)

    def figures(self, arm: str, *, resamples: int, seed: int) -> dict[str, Any] | None:
        """An arm's figures as evaluation.json has them; None if no request has a known answer."""
        kept = self.kept[arm]
        return figures_of(self._metric, kept, resamples=resamples, seed=seed) if kept.count else None

    def differences(self, baseline: str, *, resamples: int, seed: int) -> dict[str, dict[str, Any]]:
        """For each other arm: `score_difference`, `mcnemar`, and `figure_differences` (arm less baseline).

        The first figure of the metric is the score. Its difference is that of the figures over all units with
        a paired interval; McNemar's test is over the units for which it is defined and 0 or 1 in both arms.
        """
        if not self.kept[baseline].count:
            return {}
        units = {arm: kept.units() for arm, kept in self.kept.items()}
        drawn = self._resampled(units, resamples=resamples, seed=seed)
        found = {}
        for arm in units:
            if arm != baseline:
                differences = {
                    name: interval(drawn[arm][name] - drawn[baseline][name]) for name in drawn[arm]
                }
                found[arm] = {
                    "score_difference": next(iter(differences.values())),
                    "mcnemar": mcnemar(self._first(units[baseline]), self._first(units[arm])),
                    "figure_differences": {name: told for name, told in differences.items() if told},
                }
        return found

    def _resampled(
        self, units: Mapping[str, np.ndarray], *, resamples: int, seed: int
    ) -> dict[str, dict[str, np.ndarray]]:
        """Each arm's figures, [R + 1] each, under the same draws of units."""
        columns = {
            (arm, place): (numbers,) for arm, rows in units.items() for place, numbers in enumerate(rows.T)
        }
        sums = resampled_sums(columns, resamples=resamples, seed=seed)
        found = {}
        for arm, rows in units.items():
            width = rows.shape[1]
            told = list(map(self._metric.figures, np.stack([sums[arm, place] for place in range(width)], 1)))
            found[arm] = {name: np.array([figures[name] for figures in told]) for name in told[0]}
        return found

    def _first(self, units: np.ndarray) -> np.ndarray:
        """The metric's first figure of each unit by itself, NaN where it is not defined."""
        return np.array([next(iter(self._metric.figures(row).values())) for row in units])

    def notes(self) -> list[str]:
        """What a reader of the figures should know."""
        kept = next(iter(self.kept.values()))
        rows, asked = sum(kept.status.values()), len(self._join.references)
        found = list(self._metric.notes)
        if rows < asked:
            found.append(f"A part of the dataset: {rows:,} of {asked:,} questions.")
        if kept.without_truth:
            found.append(f"{kept.without_truth:,} requests have no known answer and are not scored.")
        return found


def open_scores(
    dataset: Dataset | None, outputs: Mapping[str, Output], storage: Storage
) -> tuple[Scores | None, list[str]]:
    """What scores the arms, or None, and notes that say why there is none.

    Raises:
        ConfigError: an official file is missing or damaged, or holds no question.
    """
    if dataset is None:
        return None, []
    references = list(dataset.references(storage))
    if not references:
        raise ConfigError(f"dataset: no question in {storage.redact(dataset.root)}")
    metric = dataset.metric(references) if any(reference.answers for reference in references) else None
    if metric is None:
        return None, ["The dataset's answers are not public or need a judge: there is no score."]
    join = choose_join(references, dataset.joint, next(iter(outputs.values())))
    return Scores(metric, join, outputs), []


def _answered(table: pa.Table) -> list[Answered]:
    return [Answered(**row) for row in table.select(_COLUMNS).to_pylist()]


def mcnemar(base: np.ndarray, other: np.ndarray) -> dict[str, float] | None:
    """The exact two-sided test of paired scores; None if a score is neither 0, 1 nor NaN (not scored).

    Returns:
        b: right in the baseline alone; c: right in the other arm alone; p: the probability, under a fair
        coin, of a split of b + c at least as uneven.
    """
    scored = ~(np.isnan(base) | np.isnan(other))
    base, other = base[scored], other[scored]
    if not len(base) or not np.isin([base, other], (0.0, 1.0)).all():
        return None
    b, c = int((base > other).sum()), int((other > base).sum())
    return {"b": b, "c": c, "p": sign_test(b, c)}


def sign_test(b: int, c: int) -> float:
    """The exact two-sided binomial probability of a split as uneven as b to c; 1 if both are 0."""
    n, fewer = b + c, min(b, c)
    logs = [_log_choose(n, k) - n * math.log(2) for k in range(fewer + 1)]
    return min(1.0, 2 * math.fsum(map(math.exp, logs)))


def _log_choose(n: int, k: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
