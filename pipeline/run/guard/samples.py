"""Splits a unit into its samples or requests, joins them again, and marks rows as failed."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.stages.rows import Trace, UnitRow

_BY_SAMPLE = ("samples", "images", "requests")  # tables with a column `sample`
_HEAVY = ("image", "pixels")


def split_by_sample(row: UnitRow) -> Iterator[UnitRow]:
    """Yield one row per sample, in order; each keeps the range and trace of the whole unit."""
    table = row.tables[_main(row)]
    for sample in pc.unique(table["sample"]):
        yield _part(row, table.filter(pc.equal(table["sample"], sample)))


def split_by_request(row: UnitRow) -> Iterator[UnitRow]:
    """Yield one row per request and arm, in order, of a unit whose requests are rows."""
    requests = row.tables["requests"]
    for index in range(requests.num_rows):
        yield _part(row, requests.slice(index, 1))


def _part(row: UnitRow, table: pa.Table) -> UnitRow:
    """Return a row with a part of its main table, and with the tokens that this part uses."""
    tables = {_main(row): table}
    if "tokens" in row.tables:
        used = pc.unique(table["visual"].drop_null())
        tables = {
            "requests": _with_tokens_rows(table, pc.index_in(table["visual"], used)),
            "tokens": row.tables["tokens"].take(used),
        }
    return replace(row, tables=tables)


def count_open(row: UnitRow) -> int:
    """Count the rows without a fault so far."""
    return int(pc.sum(pc.equal(row.tables[_main(row)]["status"], "ok")).as_py() or 0)


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
    return replace(rows[-1], tables=tables, trace=_trace_of_all(rows))


def _trace_of_all(rows: Sequence[UnitRow]) -> Trace:
    """Return the last row's trace, with a visit of its last stage that begins with the first row's."""
    trace = rows[-1].trace.copy()
    if stages := trace.get("stages"):
        name, visit = list(stages.items())[-1]
        visits = [row.trace["stages"][name] for row in rows]
        cpu_s = None if visit.cpu_s is None else sum(one.cpu_s or 0.0 for one in visits)
        trace["stages"] = stages | {name: replace(visit, start=visits[0].start, cpu_s=cpu_s)}
    return trace


def mark_failed(row: UnitRow, error: str) -> UnitRow:
    """Mark all rows with status `ok` as `failed`, and drop the images; faulty rows keep their error."""
    name = _main(row)
    table = row.tables[name]
    ok = pc.equal(table["status"], "ok")
    for column, value in (("status", "failed"), ("error", error)):
        table = _with(table, column, pc.if_else(ok, value, table[column]))
    for column in (column for column in _HEAVY if column in table.column_names):
        table = _with(table, column, pa.nulls(table.num_rows, table.schema.field(column).type))
    return replace(row, tables={**row.tables, name: table})


def _main(row: UnitRow) -> str:
    """Name the table that has the samples or requests as rows."""
    (name,) = (name for name in _BY_SAMPLE if name in row.tables)
    return name


def _with_tokens_rows(requests: pa.Table, visual: pa.ChunkedArray) -> pa.Table:
    """Give the requests new row numbers into the tokens table."""
    return _with(requests, "visual", visual.cast(pa.int32()))


def _with(table: pa.Table, name: str, values: pa.ChunkedArray) -> pa.Table:
    field = table.schema.field(name)
    return table.set_column(table.schema.get_field_index(name), field, values)
