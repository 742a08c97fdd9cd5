"""Keeps per-request numeric columns for each arm and each pair; texts are not kept."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.compare.agreement import Agreement, ArmAnswer, Worst, agreement
from pipeline.compare.machine_time import BUSY
from pipeline.support.intervals import Column, Figure, resampled_sums
from pipeline.support.schema import COUNTS, SECONDS

OK = "ok"
KEPT = "visual_tokens_kept"
T = TypeVar("T")
U = TypeVar("U")
Product = tuple[Column, ...]  # a column is the product of these arrays [N]


@dataclass(frozen=True)
class PairColumns(Generic[T]):
    """Holds something for each column of a pair, by the column's name.

    Args:
        arm, baseline: tokens kept and seconds of either, over the requests that both answered.
        agreement: the fields of `Agreement`, over all requests.
    """

    arm: dict[str, T]
    baseline: dict[str, T]
    agreement: dict[str, T]


@dataclass(frozen=True)
class Columns(Generic[T]):
    """Holds something for each column of a comparison: its arrays, or the sums of its resamples.

    Args:
        arms: by arm and column: counts and seconds over the requests that the arm answered; `ok` and
            `busy_s` over all requests.
        pairs: by arm, but for the baseline.
    """

    arms: dict[str, dict[str, T]]
    pairs: dict[str, PairColumns[T]]

    def map(self, function: Callable[[T], U]) -> "Columns[U]":
        """Apply a function to each column, always in the same order."""
        arms = {arm: _mapped(function, columns) for arm, columns in self.arms.items()}
        pairs = {
            arm: PairColumns(
                _mapped(function, pair.arm),
                _mapped(function, pair.baseline),
                _mapped(function, pair.agreement),
            )
            for arm, pair in self.pairs.items()
        }
        return Columns(arms, pairs)


def _mapped(function: Callable[[T], U], columns: Mapping[str, T]) -> dict[str, U]:
    return {name: function(column) for name, column in columns.items()}


def column_sums(columns: Columns[Product], *, resamples: int, seed: int) -> Columns[Figure]:
    """Sum each column over all rows and over those of each resample, under the same draws."""
    products: list[Product] = []
    columns.map(products.append)
    sums = iter(resampled_sums(dict(enumerate(products)), resamples=resamples, seed=seed).values())
    return columns.map(lambda product: next(sums))


class GrowingColumns:
    """Appends parts to named columns of float32: four bytes a request and column."""

    def __init__(self) -> None:
        self._parts: dict[str, list[NDArray[np.float32]]] = defaultdict(list)

    def extend(self, name: str, values: Iterable[float]) -> None:
        """Append values to one column."""
        self._parts[name].append(np.asarray(values, np.float32))

    def __getitem__(self, name: str) -> NDArray[np.float32]:
        parts = self._parts[name]
        if len(parts) > 1:
            parts[:] = [np.concatenate(parts)]
        return parts[0] if parts else np.zeros(0, np.float32)


class RequestNumbers:
    """Collects the numbers of joined units, request by request.

    `arms[arm]` has the columns `ok`, `busy_s`, COUNTS and SECONDS, 0 where an output has null: `ok` is 1 for
    an answer, `busy_s` the seconds of all stages, also of a request that failed. `pairs[arm]` has those of
    `Agreement`, against the baseline.
    """

    def __init__(self, arms: Iterable[str], baseline: str) -> None:
        self.baseline = baseline
        self.arms = {arm: GrowingColumns() for arm in arms}
        self.pairs = {arm: GrowingColumns() for arm in self.arms if arm != baseline}
        self.worst = {arm: Worst() for arm in self.pairs}
        self.status: dict[str, Counter[str]] = {arm: Counter() for arm in self.arms}
        self.count = 0
        self._rows_of_units: list[int] = []

    def add(self, tables: Mapping[str, pa.Table]) -> None:
        """Add one unit of every arm."""
        self.count += tables[self.baseline].num_rows
        self._rows_of_units.append(tables[self.baseline].num_rows)
        for arm, table in tables.items():
            self._add_arm(arm, table)
        base = tables[self.baseline]
        requests = _rows(base, "key", "sample_key", "question")
        for arm in self.pairs:
            self._add_pair(arm, requests, _answers(base), _answers(tables[arm]))

    def _add_arm(self, arm: str, table: pa.Table) -> None:
        columns = self.arms[arm]
        numbers = {name: _numbers(table[name]) for name in (*COUNTS, *SECONDS)}
        self.status[arm].update(table["status"].to_pylist())
        columns.extend(OK, _numbers(pc.equal(table["status"], OK)))
        columns.extend("busy_s", sum((numbers[name] for name in BUSY), np.zeros(table.num_rows)))
        for name, values in numbers.items():
            columns.extend(name, values)

    def _add_pair(
        self, arm: str, requests: list[tuple[str, ...]], base: list[ArmAnswer], other: list[ArmAnswer]
    ) -> None:
        agreements = list(map(agreement, base, other))
        for name, values in zip(Agreement._fields, np.reshape(agreements, (-1, 4)).T, strict=True):
            self.pairs[arm].extend(name, values)
        for request, base_answer, answer, agreed in zip(requests, base, other, agreements, strict=True):
            self.worst[arm].add(request, base_answer, answer, agreed)

    def columns(self) -> Columns[Product]:
        """Return the columns to sum, a row a request."""
        base = self.arms[self.baseline]
        arms: dict[str, dict[str, Product]] = {}
        for arm, numbers in self.arms.items():
            arms[arm] = {name: (numbers[name], numbers[OK]) for name in (*COUNTS, *SECONDS)}
            arms[arm] |= {name: (numbers[name],) for name in (OK, "busy_s")}
        pairs: dict[str, PairColumns[Product]] = {}
        for arm, agreements in self.pairs.items():
            numbers = self.arms[arm]
            both = (numbers[OK], base[OK])
            pairs[arm] = PairColumns(
                arm={name: (numbers[name], *both) for name in (KEPT, *BUSY)},
                baseline={name: (base[name], *both) for name in (KEPT, *BUSY)},
                agreement={name: (agreements[name],) for name in Agreement._fields},
            )
        return Columns(arms, pairs)

    def columns_by_unit(self) -> Columns[Product]:
        """Return the same columns, summed over each unit that has requests: a batch shares its noise."""
        sizes = [rows for rows in self._rows_of_units if rows]
        unit = np.repeat(np.arange(len(sizes)), sizes)

        def summed(product: Product) -> Product:
            return (np.bincount(unit, np.prod([part.astype(np.float64) for part in product], axis=0)),)

        return self.columns().map(summed)


def _numbers(column: pa.ChunkedArray) -> NDArray[np.float32]:
    return np.asarray(pc.fill_null(pc.cast(column, pa.float32()), 0.0).to_numpy())


def _rows(table: pa.Table, *names: str) -> list[tuple[str, ...]]:
    return list(zip(*(table[name].to_pylist() for name in names), strict=True))


def _answers(table: pa.Table) -> list[ArmAnswer]:
    return [ArmAnswer(*row) for row in _rows(table, "prediction", "status")]
