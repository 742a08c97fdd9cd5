"""Collects per-row scores by unit and category, so that texts need not stay in memory."""

from collections import Counter

import numpy as np
from numpy.typing import NDArray

from pipeline.evaluate.base import Answered, Metric, Numbers, Reference

MAX_NEW_TOKENS = "decoding.max_new_tokens"  # its name in run.json
_ROWS_AT_ONCE = 65536


def cut_off_note(count: int, most: int | None, published: int) -> str:
    """Say how many answers were cut off, and if published runs of the dataset let them be longer."""
    at = MAX_NEW_TOKENS if most is None else f"{MAX_NEW_TOKENS}={most}"
    longer = most is not None and most < published
    return f"{count:,} answers were cut off at {at}" + (
        f", where published runs have {published}" if longer else ""
    )


class Tally:
    """Collects the numbers of scored rows, with the unit and the groups of each.

    `status` counts all rows by their status, `cut_off` those whose answers reached decoding.max_new_tokens,
    `without_truth` those whose answer is not known, `count` those that are scored.
    """

    def __init__(self, metric: Metric) -> None:
        self.status: Counter[str] = Counter()
        self.cut_off = 0
        self.without_truth = 0
        self.count = 0
        self._metric = metric
        self._full: list[Numbers] = []
        self._rows: list[tuple[float, ...]] = []
        self._units: dict[str, int] = {}
        self._unit_of: list[int] = []
        self._groups: dict[str, dict[int, None]] = {}

    def add(self, row: Answered, reference: Reference) -> tuple[float, ...] | None:
        """Score one row; a status other than `ok` is wrong. Returns its numbers, None if not scored."""
        self.status[row.status] += 1
        self.cut_off += row.is_cut_off
        if not reference.answers:
            self.without_truth += 1
            return None
        prediction = row.prediction if row.status == "ok" else None
        observed = tuple(self._metric.observe(prediction, reference))
        self._rows.append(observed)
        if len(self._rows) == _ROWS_AT_ONCE:
            self._flush()
        unit = self._unit(reference)
        for group in reference.groups:
            self._groups.setdefault(group, {})[unit] = None
        self.count += 1
        return observed

    def _unit(self, reference: Reference) -> int:
        if self._metric.pool is None:
            return self.count
        unit = self._units.setdefault(reference.unit, len(self._units))
        self._unit_of.append(unit)
        return unit

    def _flush(self) -> None:
        if self._rows:
            self._full.append(np.array(self._rows))
            self._rows = []

    def units(self) -> Numbers:
        """Return [U, c + 1]: a row a unit, its last number being 1."""
        self._flush()
        rows = np.concatenate(self._full)
        if self._metric.pool is not None:
            order = np.argsort(self._unit_of, kind="stable")
            starts = np.searchsorted(np.array(self._unit_of)[order], np.arange(1, len(self._units)))
            rows = np.array([self._metric.pool(part) for part in np.split(rows[order], starts)])
        return np.column_stack([rows, np.ones(len(rows))])

    def groups(self) -> dict[str, NDArray[np.int64]]:
        """Return the units of each group, the groups in alphabetical order."""
        return {name: np.fromiter(self._groups[name], np.int64) for name in sorted(self._groups)}
