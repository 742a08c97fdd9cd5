"""Scores the arms' answers against a dataset's references, and computes paired differences."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

import numpy as np
import pyarrow as pa

from pipeline.compare.comparison import McNemar
from pipeline.evaluate.base import Answered, Dataset, Metric, Numbers
from pipeline.evaluate.join import Join, choose_join
from pipeline.evaluate.score_intervals import ScoresJson, scores_of
from pipeline.evaluate.tally import MAX_NEW_TOKENS, Tally, cut_off_note
from pipeline.output.opened import Output
from pipeline.storage.uris import Storage
from pipeline.support.errors import ConfigError
from pipeline.support.intervals import Figure, Interval, interval, resampled_sums

_COLUMNS = [column.name for column in fields(Answered)]


@dataclass(frozen=True)
class ScoreDifference:
    """Holds an arm's scores less the baseline's, with paired intervals; the first is the main figure's."""

    score_difference: Interval | None
    mcnemar: McNemar | None
    figure_differences: dict[str, Interval]


class Scores:
    """Scores joined units one by one; every request must be one of the references."""

    def __init__(
        self, metric: Metric, join: Join, longest: Mapping[str, int | None], published_longest: int
    ) -> None:
        """Begin the scores of arms.

        Args:
            longest: the decoding.max_new_tokens of each arm; None: not known.
            published_longest: that of the dataset's published runs.
        """
        self.tallies = {arm: Tally(metric) for arm in longest}
        self._metric, self._join = metric, join
        self._longest, self._published_longest = longest, published_longest

    def add(self, tables: Mapping[str, pa.Table]) -> dict[str, list[float | None]]:
        """Score a unit's requests, by arm; None where the right answer is not known.

        Raises:
            ConfigError: a request is not among the references, or occurs twice.
        """
        rows = {arm: _answered(table) for arm, table in tables.items()}
        references = [self._join.match(row) for row in next(iter(rows.values()))]
        return {
            arm: [
                self._score(self.tallies[arm].add(row, reference))
                for row, reference in zip(of_arm, references, strict=True)
            ]
            for arm, of_arm in rows.items()
        }

    def _score(self, observed: Sequence[float] | None) -> float | None:
        """Return the first of the metric's figures that is defined for a single request."""
        if observed is None:
            return None
        pool = self._metric.pool
        unit = observed if pool is None else pool(np.array([observed]))
        figures = self._metric.figures(np.array([*unit, 1.0])).values()
        return next((float(value) for value in figures if not math.isnan(value)), None)

    def figures(self, arm: str, *, resamples: int, seed: int) -> ScoresJson | None:
        """Return an arm's scores as in evaluation.json; None if no request has a known answer."""
        tally = self.tallies[arm]
        return scores_of(self._metric, tally, resamples=resamples, seed=seed) if tally.count else None

    def differences(self, baseline: str, *, resamples: int, seed: int) -> dict[str, ScoreDifference]:
        """Compare each other arm's scores with the baseline's; empty if no answer is known.

        The first figure of the metric is the score. Its difference is that of the figures over all units with
        a paired interval; McNemar's test is over the units where it is defined and 0 or 1 in both arms.
        """
        if not self.tallies[baseline].count:
            return {}
        units = {arm: tally.units() for arm, tally in self.tallies.items()}
        drawn = self._resampled(units, resamples=resamples, seed=seed)
        compared = {}
        for arm in units:
            if arm != baseline:
                differences = {
                    name: interval(drawn[arm][name] - drawn[baseline][name]) for name in drawn[arm]
                }
                compared[arm] = ScoreDifference(
                    next(iter(differences.values())),
                    mcnemar(self._first(units[baseline]), self._first(units[arm])),
                    {name: figure for name, figure in differences.items() if figure},
                )
        return compared

    def _resampled(
        self, units: Mapping[str, Numbers], *, resamples: int, seed: int
    ) -> dict[str, dict[str, Figure]]:
        """Compute each arm's figures, [R + 1] each, under the same draws of units."""
        columns = {
            (arm, place): (numbers,) for arm, rows in units.items() for place, numbers in enumerate(rows.T)
        }
        sums = resampled_sums(columns, resamples=resamples, seed=seed)
        figures_of = {}
        for arm, rows in units.items():
            width = rows.shape[1]
            draws = list(map(self._metric.figures, np.stack([sums[arm, place] for place in range(width)], 1)))
            figures_of[arm] = {name: np.array([figures[name] for figures in draws]) for name in draws[0]}
        return figures_of

    def _first(self, units: Numbers) -> Numbers:
        """Compute the metric's first figure of each single unit, NaN where it is not defined."""
        return np.array([next(iter(self._metric.figures(row).values())) for row in units])

    def notes(self) -> list[str]:
        """Return what a reader of the figures should know."""
        tally = next(iter(self.tallies.values()))
        rows, questions = sum(tally.status.values()), len(self._join.references)
        notes = list(self._metric.notes)
        if rows < questions:
            notes.append(f"A part of the dataset: {rows:,} of {questions:,} questions.")
        if tally.without_truth:
            notes.append(f"{tally.without_truth:,} requests have no known answer and are not scored.")
        for arm, tally in self.tallies.items():
            if tally.cut_off:
                note = cut_off_note(tally.cut_off, self._longest[arm], self._published_longest)
                notes.append(f"{arm}: {note}.")
        return notes


def open_scores(
    dataset: Dataset | None, outputs: Mapping[str, Output], storage: Storage
) -> tuple[Scores | None, list[str]]:
    """Open a dataset's scores of the arms; None, with notes that say why, if it has none.

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
    longest = {arm: output.manifest.counted.get(MAX_NEW_TOKENS) for arm, output in outputs.items()}
    return Scores(metric, join, longest, dataset.max_new_tokens), []


def _answered(table: pa.Table) -> list[Answered]:
    return [Answered(**row) for row in table.select(_COLUMNS).to_pylist()]


def mcnemar(base: Numbers, other: Numbers) -> McNemar | None:
    """Test paired scores exactly and two-sided; None if a score is neither 0, 1 nor NaN (not scored)."""
    scored = ~(np.isnan(base) | np.isnan(other))
    base, other = base[scored], other[scored]
    if not len(base) or not np.isin([base, other], (0.0, 1.0)).all():
        return None
    b, c = int((base > other).sum()), int((other > base).sum())
    return McNemar(b, c, sign_test(b, c))


def sign_test(b: int, c: int) -> float:
    """Compute the two-sided binomial probability of a split as uneven as b to c; 1 if both are 0."""
    n, fewer = b + c, min(b, c)
    logs = [_log_choose(n, k) - n * math.log(2) for k in range(fewer + 1)]
    return min(1.0, 2 * math.fsum(map(math.exp, logs)))


def _log_choose(n: int, k: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
