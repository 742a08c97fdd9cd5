"""A unit taken apart by samples, and put together again."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.stages.rows import UnitRow

_BY_SAMPLE = ("samples", "images", "requests")  # the tables that have a column `sample`
_HEAVY = ("image", "pixels")


def pieces(row: UnitRow) -> Iterator[UnitRow]:
    """One row a sample, in order; each has the place of the whole unit."""
    (name,) = (name for name in _BY_SAMPLE if name in row.tables)
    table = row.tables[name]
    for sample in pc.unique(table["sample"]):
        own = table.filter(pc.equal(table["sample"], sample))
        tables = {name: own}
        if "tokens" in row.tables:
            used = pc.unique(own["visual"].drop_null())
            tables = {
                name: _pointing(own, pc.index_in(own["visual"], used)),
                "tokens": row.tables["tokens"].take(used),
            }
        yield replace(row, tables=tables)


def joined(rows: Sequence[UnitRow]) -> UnitRow:
    """The unit whose samples these are, in the order in which stages leave their tables."""
    names = list(rows[0].tables)
    parts: dict[str, list[pa.Table]] = {name: [row.tables[name] for row in rows] for name in names}
    if "tokens" in parts:
        offset, moved = 0, []
        for requests, tokens in zip(parts["requests"], parts["tokens"], strict=True):
            moved.append(_pointing(requests, pc.add(requests["visual"], pa.scalar(offset, pa.int32()))))
            offset += tokens.num_rows
        parts["requests"] = moved
    tables = {name: pa.concat_tables(part) for name, part in parts.items()}
    if "requests" in tables:
        tables["requests"] = tables["requests"].sort_by([("arm", "ascending"), ("key", "ascending")])
    return replace(rows[-1], tables=tables)


def failed(row: UnitRow, error: str) -> UnitRow:
    """The same unit with all that could be answered marked as `failed`."""
    (name,) = (name for name in _BY_SAMPLE if name in row.tables)
    table = row.tables[name]
    ok = pc.equal(table["status"], "ok")
    for column, value in (("status", "failed"), ("error", error)):
        table = _with(table, column, pc.if_else(ok, value, table[column]))
    for column in (column for column in _HEAVY if column in table.column_names):
        table = _with(table, column, pa.nulls(table.num_rows, table.schema.field(column).type))
    return replace(row, tables={**row.tables, name: table})


def _pointing(requests: pa.Table, visual: pa.ChunkedArray) -> pa.Table:
    """Requests whose tokens stand elsewhere."""
    return _with(requests, "visual", visual.cast(pa.int32()))


def _with(table: pa.Table, name: str, values: pa.ChunkedArray) -> pa.Table:
    field = table.schema.field(name)
    return table.set_column(table.schema.get_field_index(name), field, values)
