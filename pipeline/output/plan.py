"""Holds the source's listing as it was frozen in the output when a run first started: the plan.

It only grows at its end (`plan_growth.py`), by files below plan/ (`plan_parts.py`). The line of a failed
shard that has changed in the source since is renewed.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby, pairwise

import numpy as np
import pyarrow as pa

from pipeline.output.layout import PLAN
from pipeline.output.plan_parts import (
    LightPart,
    LinePlace,
    first_shard,
    is_first_part,
    read_light,
    read_planned,
    read_runs,
    renewed_shard,
    write_renewed,
)
from pipeline.sources.base import Shard
from pipeline.storage.uris import Storage, list_names
from pipeline.support.census import Census
from pipeline.support.errors import ConfigError
from pipeline.support.parallel import THREADS, each


@dataclass(frozen=True)
class Plan:
    """Holds the frozen listing of one output. A shard's own files are read only when asked for.

    Args:
        folder: URI of the output.
        source: canonical URI of the listed path, or JSON of several; see `storage/paths.py`.
        table: SHARDS without `files`.
        parts: names of the files below plan/ that the listings were written into, in order.
        census: what the last listing of the source passed over.
        listed: the table without the lines that were renewed since.
        renewed: names of the files with renewed lines, by shard.
        places: of each shard the index of its part, its row group and its row; int32 [shards, 3].
    """

    folder: str
    source: str
    table: pa.Table
    parts: tuple[str, ...]
    census: Census
    listed: pa.Table = field(compare=False)
    renewed: dict[int, str] = field(compare=False)
    places: "np.ndarray[tuple[int, ...], np.dtype[np.int32]]" = field(compare=False, repr=False)

    def __len__(self) -> int:
        return int(self.table.num_rows)

    def size(self, shard: int) -> int:
        """Return a shard's size in bytes."""
        return int(self.table["size"][shard].as_py())

    def lines(self, among: range | None) -> pa.Table:
        """Return the lines of some consecutive shards, or all of them."""
        return self.table if among is None else self.table.slice(among.start, len(among))

    def line(self, shard: int) -> Shard:
        """Return a shard without its list of files."""
        return Shard(**self.table.slice(shard, 1).to_pylist()[0])

    def place(self, shard: int) -> LinePlace:
        """Say where below plan/ a shard's line is."""
        if shard in self.renewed:
            return LinePlace(self.renewed[shard], 0, 0)
        part, group, row = self.places[shard].tolist()
        return LinePlace(self.parts[part], group, row)

    def shard(self, ordinal: int, storage: Storage) -> Shard:
        """Read one shard with its files."""
        return read_planned(self.folder, self.place(ordinal), storage)

    def shards(self, storage: Storage, among: range | None = None) -> Iterator[Shard]:
        """Read all shards with their files, in order; one row group of the plan is in memory at a time.

        Args:
            among: reads these consecutive shards only.
        """
        for name, runs in groupby(
            self._runs(range(len(self)) if among is None else among), lambda run: run[0]
        ):
            yield from read_runs(self.folder, name, (run[1:] for run in runs), storage)

    def _runs(self, among: range) -> Iterator[tuple[str, int, int, int]]:
        """Yield the runs of lines that stand together: file, row group, first row, number of lines."""
        renewed = [shard for shard in sorted(self.renewed) if shard in among]
        for first, stop in pairwise([among.start - 1, *renewed, among.stop]):
            if first >= among.start:
                yield *self.place(first), 1
            places = self.places[first + 1 : stop]
            breaks = np.flatnonzero(np.any(np.diff(places[:, :2], axis=0), axis=1)) + 1
            for run in np.split(places, breaks) if len(places) else ():
                part, group, row = run[0].tolist()
                yield self.parts[part], group, row, len(run)

    def renew(self, changed: Mapping[int, Shard], storage: Storage) -> None:
        """Write new lines of shards that have changed; each becomes a file of its own."""
        for shard in changed.values():
            write_renewed(self.folder, self.source, shard, storage)


def load_plan(output: str, storage: Storage) -> Plan | None:
    """Read the plan of an output; None if it has none yet.

    Raises:
        ConfigError: a part of it is gone.
    """
    fs, folder = storage.open(output)
    names = list(list_names(fs, f"{folder}/{PLAN}"))
    read = partial(read_light, fs, folder)
    firsts = sorted(filter(is_first_part, names), key=first_shard)
    if not firsts:
        return None
    growths = list(each(read, firsts, THREADS))
    further = each(read, (name for growth in growths for name in growth.further), THREADS)
    parts = sorted([*growths, *further], key=lambda part: first_shard(part.name))
    listed = pa.concat_tables([part.table for part in parts])
    renewed = {
        shard: name
        for name in names
        if (shard := renewed_shard(name)) is not None and shard < listed.num_rows
    }
    lines = each(read, renewed.values(), THREADS)
    return Plan(
        output,
        growths[-1].source,
        _with_lines(listed, {shard: line.table for shard, line in zip(renewed, lines, strict=True)}),
        tuple(part.name for part in parts),
        growths[-1].census,
        listed,
        renewed,
        np.concatenate([_places(number, part) for number, part in enumerate(parts)]),
    )


def _places(number: int, part: LightPart) -> "np.ndarray[tuple[int, ...], np.dtype[np.int32]]":
    return np.column_stack([np.full(len(part.rows), number, np.int32), part.groups, part.rows])


def _with_lines(listed: pa.Table, lines: Mapping[int, pa.Table]) -> pa.Table:
    """Replace lines of a table, by their numbers."""
    pieces, position = [], 0
    for shard, line in sorted(lines.items()):
        pieces += [listed.slice(position, shard - position), line]
        position = shard + 1
    return pa.concat_tables([*pieces, listed.slice(position)]).combine_chunks() if lines else listed


def require_plan(output: str, storage: Storage) -> Plan:
    """Read the plan of an output; ConfigError if it has none, or it is damaged."""
    try:
        plan = load_plan(output, storage)
    except (pa.ArrowException, LookupError, TypeError) as error:
        message = storage.redact(f"{output}/{PLAN} cannot be read: {error}")[:300]
        raise ConfigError(f"output: {message}") from None
    if plan is None:
        raise ConfigError(f"output: {storage.redact(output)} is no output of Trimline: it has no plan")
    return plan
