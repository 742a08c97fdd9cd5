"""Writes comparison.parquet: one row a request, every arm's answer beside the others'."""

import tempfile
from collections.abc import Mapping, Sequence
from types import TracebackType

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.compare.join import IMAGE
from pipeline.output.layout import COMPARISON_TABLE
from pipeline.storage.uris import Storage, put_atomic
from pipeline.support.schema import ARM_COLUMNS, PREDICTIONS, SHARED_COLUMNS

_ROWS_AT_ONCE = 16384


def comparison_schema(arms: Sequence[str]) -> pa.Schema:
    """Return the request's columns, then, arm by arm, `<column>.<arm>` and last `score.<arm>`."""
    fields = [PREDICTIONS.field(name) for name in SHARED_COLUMNS]
    for arm in arms:
        fields += [PREDICTIONS.field(name).with_name(f"{name}.{arm}") for name in ARM_COLUMNS]
        fields.append(pa.field(f"score.{arm}", pa.float32()))
    return pa.schema(fields)


def joined_table(tables: Mapping[str, pa.Table], scores: Mapping[str, Sequence[float | None]]) -> pa.Table:
    """Join one unit's rows. An arm's `scores` are null without ground truth."""
    first = next(iter(tables.values()))
    columns = [first[name] for name in SHARED_COLUMNS]
    columns[SHARED_COLUMNS.index(IMAGE)] = pc.coalesce(*(table[IMAGE] for table in tables.values()))
    for arm, table in tables.items():
        columns += [table[name] for name in ARM_COLUMNS]
        columns.append(pa.array(scores[arm], pa.float32()))
    return pa.table(columns, schema=comparison_schema(list(tables)))


class ComparisonWriter:
    """Writes `<place>/comparison.parquet`, which appears, complete, when the block ends without an error.

    Rows are spooled to a temporary file; memory holds at most 16,384 of them and one unit.
    """

    def __init__(self, place: str, arms: Sequence[str], storage: Storage) -> None:
        self._place, self._storage = place, storage
        self._schema = comparison_schema(arms)
        self._waiting: list[pa.Table] = []

    def __enter__(self) -> "ComparisonWriter":
        self._spool = tempfile.NamedTemporaryFile(suffix=".parquet")
        self._writer = pq.ParquetWriter(
            self._spool, self._schema, compression="zstd", write_page_checksum=True
        )
        return self

    def add(self, table: pa.Table) -> None:
        """Add rows that `joined_table` made."""
        self._waiting.append(table)
        if sum(part.num_rows for part in self._waiting) >= _ROWS_AT_ONCE:
            self._flush()

    def _flush(self) -> None:
        table = pa.concat_tables(self._waiting) if self._waiting else None
        if table is not None and table.num_rows:
            self._writer.write_table(table.combine_chunks())
        self._waiting = []

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._spool:
            if kind is None:
                self._flush()
            self._writer.close()
            self._spool.flush()
            if kind is None:
                fs, folder = self._storage.open(self._place)
                with self._storage.reaching("output", self._place):
                    put_atomic(fs, f"{folder}/{COMPARISON_TABLE}", self._spool.name)
