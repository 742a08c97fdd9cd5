"""Describes what a shard lacks, as the rows that the read stage is given."""

from collections.abc import Iterable
from typing import NamedTuple

import pyarrow as pa

from pipeline.output.plan_parts import LinePlace

_INTS = pa.list_(pa.int64())
# a row: the shard, the place of its line in the plan, and its finished and partly finished units
PENDING = pa.schema(
    [
        *(("shard", pa.int64()), ("file", pa.string()), ("group", pa.int32()), ("row", pa.int32())),
        *(("firsts", _INTS), ("stops", _INTS), ("lacking_firsts", _INTS), ("lacking_arms", pa.list_(_INTS))),
    ]
)


class PendingShard(NamedTuple):
    """Describes a shard that lacks units in some arm.

    Attributes:
        number: in the plan.
        finished: first -> stop of the units that every arm has.
        lacking_arms: for each unit that only some arms have, by its first sample: the arms that lack it.
    """

    number: int
    finished: dict[int, int]
    lacking_arms: dict[int, list[int]]


def pending_rows(shards: Iterable[tuple[PendingShard, LinePlace]]) -> pa.Table:
    """Make the rows of `PENDING` for shards, each with the place of its line in the plan."""
    lines = [
        (
            *(number, *place),
            *(list(finished), list(finished.values()), list(lacking_arms), list(lacking_arms.values())),
        )
        for (number, finished, lacking_arms), place in shards
    ]
    columns = zip(*lines, strict=True)
    arrays = [pa.array(column, field.type) for column, field in zip(columns, PENDING, strict=True)]
    return pa.Table.from_arrays(arrays, schema=PENDING)


def parse_pending(row: pa.Table) -> tuple[PendingShard, LinePlace]:
    """Read a row of `PENDING`."""
    (line,) = row.to_pylist()
    finished = dict(zip(line["firsts"], line["stops"], strict=True))
    lacking_arms = dict(zip(line["lacking_firsts"], line["lacking_arms"], strict=True))
    return PendingShard(line["shard"], finished, lacking_arms), LinePlace(
        line["file"], line["group"], line["row"]
    )
