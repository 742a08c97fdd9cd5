"""What is kept of every request: some numbers for each arm and each pair, whatever their texts."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.compare.agreement import Agreement, Answer, Worst, agreement
from pipeline.compare.machine_time import BUSY
from pipeline.support.schema import COUNTS, SECONDS

OK = "ok"
OF_ARM = (OK, "busy_s", *COUNTS, *SECONDS)


class Growing:
    """Named columns of float32 that grow by parts: four bytes a request and column."""

    def __init__(self) -> None:
        self._parts: dict[str, list[np.ndarray]] = defaultdict(list)

    def extend(self, name: str, values: Iterable[float]) -> None:
        """Append to one column."""
        self._parts[name].append(np.asarray(values, np.float32))

    def __getitem__(self, name: str) -> np.ndarray:
        parts = self._parts[name]
        if len(parts) > 1:
            parts[:] = [np.concatenate(parts)]
        return parts[0] if parts else np.zeros(0, np.float32)


class Numbers:
    """Reads joined units.

    `arms[arm]` has the columns OF_ARM, 0 where an output has null: `ok` is 1 for an answer, `busy_s` the
    seconds of all stages, also of a request that failed. `pairs[arm]` has those of `Agreement`, against the
    baseline.
    """

    def __init__(self, arms: Iterable[str], baseline: str) -> None:
        self.baseline = baseline
        self.arms = {arm: Growing() for arm in arms}
        self.pairs = {arm: Growing() for arm in self.arms if arm != baseline}
        self.worst = {arm: Worst() for arm in self.pairs}
        self.status: dict[str, Counter[str]] = {arm: Counter() for arm in self.arms}
        self.count = 0
        self._rows_of_units: list[int] = []

    def add(self, tables: Mapping[str, pa.Table]) -> None:
        """One unit of every arm."""
        self.count += tables[self.baseline].num_rows
        self._rows_of_units.append(tables[self.baseline].num_rows)
        for arm, table in tables.items():
            self._measure(arm, table)
        base = tables[self.baseline]
        requests = _rows(base, "key", "sample_key", "question")
        for arm in self.pairs:
            self._compare(arm, requests, _answers(base), _answers(tables[arm]))

    def _measure(self, arm: str, table: pa.Table) -> None:
        numbers = self.arms[arm]
        found = {name: _numbers(table[name]) for name in (*COUNTS, *SECONDS)}
        self.status[arm].update(table["status"].to_pylist())
        numbers.extend(OK, _numbers(pc.equal(table["status"], OK)))
        numbers.extend("busy_s", sum((found[name] for name in BUSY), np.zeros(table.num_rows)))
        for name, values in found.items():
            numbers.extend(name, values)

    def _compare(
        self, arm: str, requests: list[tuple[str, ...]], base: list[Answer], other: list[Answer]
    ) -> None:
        found = list(map(agreement, base, other))
        for name, values in zip(Agreement._fields, np.reshape(found, (-1, 4)).T, strict=True):
            self.pairs[arm].extend(name, values)
        for request, one, another, agreed in zip(requests, base, other, found, strict=True):
            self.worst[arm].add(request, one, another, agreed)

    def columns(self) -> dict[tuple[str, ...], tuple[np.ndarray, ...]]:
        """What is summed, each as the arrays whose product it is.

        (arm, name): over the requests that the arm answered, `busy_s` over all; (arm, "both", name) and
        (arm, "base", name): the arm's and the baseline's, over the requests that both answered; (arm, "pair",
        name): over all requests.
        """
        base = self.arms[self.baseline]
        found: dict[tuple[str, ...], tuple[np.ndarray, ...]] = {}
        for arm, own in self.arms.items():
            found |= {(arm, name): (own[name], own[OK]) for name in (*COUNTS, *SECONDS)}
            found |= {(arm, name): (own[name],) for name in (OK, "busy_s")}
        for arm, pair in self.pairs.items():
            own, both = self.arms[arm], (self.arms[arm][OK], base[OK])
            for name in ("visual_tokens_kept", *BUSY):
                found[arm, "both", name], found[arm, "base", name] = (own[name], *both), (base[name], *both)
            found |= {(arm, "pair", name): (pair[name],) for name in Agreement._fields}
        return found

    def columns_by_unit(self) -> dict[tuple[str, ...], tuple[np.ndarray, ...]]:
        """The same, summed over each unit that has requests: what shares batches shares their noise."""
        sizes = [rows for rows in self._rows_of_units if rows]
        unit = np.repeat(np.arange(len(sizes)), sizes)
        return {
            name: (np.bincount(unit, np.prod([part.astype(np.float64) for part in product], axis=0)),)
            for name, product in self.columns().items()
        }


def _numbers(column: pa.ChunkedArray) -> np.ndarray:
    return pc.fill_null(pc.cast(column, pa.float32()), 0.0).to_numpy()


def _rows(table: pa.Table, *names: str) -> list[tuple[str, ...]]:
    return list(zip(*(table[name].to_pylist() for name in names), strict=True))


def _answers(table: pa.Table) -> list[Answer]:
    return [Answer(*row) for row in _rows(table, "prediction", "status")]
