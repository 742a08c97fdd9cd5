"""Splits a unit into its samples, joins them again, and marks samples as failed."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.stages.rows import UnitRow

_BY_SAMPLE = ("samples", "images", "requests")  # tables with a column `sample`
_HEAVY = ("image", "pixels")


def split_by_sample(row: UnitRow) -> Iterator[UnitRow]:
    """Yield one row per sample, in order; each keeps the range and trace of the whole unit."""
    (name,) = (name for name in _BY_SAMPLE if name in row.tables)
    table = row.tables[name]
    for sample in pc.unique(table["sample"]):
        of_sample = table.filter(pc.equal(table["sample"], sample))
        tables = {name: of_sample}
        if "tokens" in row.tables:
            used = pc.unique(of_sample["visual"].drop_null())
            tables = {
                name: _with_tokens_rows(of_sample, pc.index_in(of_sample["visual"], used)),
                "tokens": row.tables["tokens"].take(used),
            }
        yield replace(row, tables=tables)


def join_samples(rows: Sequence[UnitRow]) -> UnitRow:
    """Join samples to their unit, with requests ordered by arm and key as `encode` leaves them."""
    names = list(rows[0].tables)
    parts: dict[str, list[pa.Table]] = {name: [row.tables[name] for row in rows] for name in names}
    if "tokens" in parts:
        offset, moved = 0, []
        for requests, tokens in zip(parts["requests"], parts["tokens"], strict=True):
            moved.append(
                _with_tokens_rows(requests, pc.add(requests["visual"], pa.scalar(offset, pa.int32())))
            )
            offset += tokens.num_rows
        parts["requests"] = moved
    tables = {name: pa.concat_tables(part) for name, part in parts.items()}
    if "requests" in tables:
        tables["requests"] = tables["requests"].sort_by([("arm", "ascending"), ("key", "ascending")])
    return replace(rows[-1], tables=tables)


def mark_failed(row: UnitRow, error: str) -> UnitRow:
    """Mark all rows with status `ok` as `failed`, and drop the images; faulty rows keep their error."""
    (name,) = (name for name in _BY_SAMPLE if name in row.tables)
    table = row.tables[name]
    ok = pc.equal(table["status"], "ok")
    for column, value in (("status", "failed"), ("error", error)):
        table = _with(table, column, pc.if_else(ok, value, table[column]))
    for column in (column for column in _HEAVY if column in table.column_names):
        table = _with(table, column, pa.nulls(table.num_rows, table.schema.field(column).type))
    return replace(row, tables={**row.tables, name: table})


def _with_tokens_rows(requests: pa.Table, visual: pa.ChunkedArray) -> pa.Table:
    """Give the requests new row numbers into the tokens table."""
    return _with(requests, "visual", visual.cast(pa.int32()))


def _with(table: pa.Table, name: str, values: pa.ChunkedArray) -> pa.Table:
    field = table.schema.field(name)
    return table.set_column(table.schema.get_field_index(name), field, values)
