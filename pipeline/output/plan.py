"""Freezes the source's listing in the output when a run first starts: the plan.

It only grows at its end, by one Parquet file for each growth, named after its first shard. A failed shard
that has changed in the source since is renewed in its place.
"""

import dataclasses
import json
import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain, islice, pairwise
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.output.layout import PLAN
from pipeline.sources.base import Shard, Source, Want, files_of
from pipeline.sources.items import samples_of
from pipeline.storage.listing import File
from pipeline.storage.paths import joined_texts, source_text
from pipeline.storage.uris import Storage, list_names, put_atomic, write_atomic
from pipeline.support.census import Census
from pipeline.support.errors import ConfigError, ShardError
from pipeline.support.hashes import holds
from pipeline.support.schema import SHARDS

_SOURCE, _CENSUS = b"source", "census"
_LIGHT = [name for name in SHARDS.names if name != "files"]


@dataclass(frozen=True)
class Plan:
    """Holds the frozen listing of one output. A shard's own files are read only when asked for."""

    folder: str  # URI of the output
    source: str  # canonical URI of the listed path, or JSON of several; see `storage/paths.py`
    table: pa.Table  # SHARDS without `files`
    parts: tuple[str, ...]  # names of the files under plan/
    census: Census = field(default_factory=Census)  # what the last listing of the source passed over

    def __len__(self) -> int:
        return int(self.table.num_rows)

    def size(self, shard: int) -> int:
        """Return a shard's size in bytes."""
        return int(self.table["size"][shard].as_py())

    def line(self, shard: int) -> Shard:
        """Return a shard without its list of files."""
        return Shard(**self.table.slice(shard, 1).to_pylist()[0])

    def shard(self, ordinal: int, storage: Storage) -> Shard:
        """Read one shard with its files."""
        part = max((name for name in self.parts if _first_shard(name) <= ordinal), key=_first_shard)
        first = _first_shard(part)
        fs, folder = storage.open(self.folder)
        with fs.open(f"{folder}/{PLAN}/{part}", "rb") as file:
            reader = pq.ParquetFile(file)
            for group in range(reader.num_row_groups):
                rows = reader.metadata.row_group(group).num_rows
                if ordinal < first + rows:
                    return _shard(reader.read_row_group(group).slice(ordinal - first, 1).to_pylist()[0])
                first += rows
        raise AssertionError(f"shard {ordinal} is not in {part}")

    def shards(self, storage: Storage) -> Iterator[Shard]:
        """Read all shards with their files, in order; one row group of the plan is in memory at a time."""
        for part in self.parts:
            yield from self._of_part(part, storage)

    def _of_part(self, part: str, storage: Storage) -> Iterator[Shard]:
        fs, folder = storage.open(self.folder)
        with fs.open(f"{folder}/{PLAN}/{part}", "rb") as file:
            reader = pq.ParquetFile(file)
            for group in range(reader.num_row_groups):
                yield from map(_shard, reader.read_row_group(group).to_pylist())

    def renew(self, changed: Mapping[int, Shard], storage: Storage) -> None:
        """Replace the lines of shards that have changed, one part of the plan after the other."""
        starts = [*map(_first_shard, self.parts), len(self)]
        for part, (first, stop) in zip(self.parts, pairwise(starts), strict=True):
            if any(first <= number < stop for number in changed):
                shards = (changed.get(shard.shard, shard) for shard in self._of_part(part, storage))
                _write_part(self.folder, self.source, next(shards), shards, storage, self.census)


def load_plan(output: str, storage: Storage) -> Plan | None:
    """Read the plan of an output; None if it has none yet."""
    fs, folder = storage.open(output)
    names = (name for name in list_names(fs, f"{folder}/{PLAN}") if re.fullmatch(r"\d+\.parquet", name))
    parts = sorted(names, key=_first_shard)
    if not parts:
        return None
    tables = [_read_light(fs, f"{folder}/{PLAN}/{name}") for name in parts]
    source = tables[-1].schema.metadata[_SOURCE].decode()
    return Plan(output, source, pa.concat_tables(tables), tuple(parts), _census(tables[-1]))


def _census(part: pa.Table) -> Census:
    text = part.schema.metadata.get(_CENSUS.encode())
    return Census.from_json(json.loads(text)) if text else Census()


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


def _first_shard(part: str) -> int:
    return int(part.partition(".")[0])


def _read_light(fs: fsspec.AbstractFileSystem, path: str) -> pa.Table:
    with fs.open(path, "rb") as file:
        reader = pq.ParquetFile(file)
        table = reader.read(columns=_LIGHT)
        # Arrow's own schema lacks what was added to the file's metadata when it was closed
        return table.replace_schema_metadata({**table.schema.metadata, **reader.metadata.metadata})


def make_plan(
    output: str, source: Source, limit: int | None, storage: Storage, reading: Storage | None = None
) -> Plan:
    """List the source and store the listing; `limit` takes only the first samples.

    Args:
        storage, reading: how to reach the output and the source; None: both the same way.

    Raises:
        ConfigError: the source lists nothing.
    """
    census, reading = Census(), reading or storage
    shards = source.shards(files_of(source, reading, census), reading)
    if limit is not None:
        shards = _first_samples(shards, source, limit, reading)
    first = next(shards, None)
    assert first is not None, "a source without entries has raised"
    _write_part(output, source_text(source.path, reading), first, shards, storage, census)
    plan = load_plan(output, storage)
    assert plan is not None, "the plan was just written"
    return plan


def extend_plan(plan: Plan, source: Source, storage: Storage, reading: Storage | None = None) -> Plan:
    """Append the shards of files that are new in the source, by their names.

    The source may have other paths than the plan, which then has them, too.

    Raises:
        ConfigError: a file that the plan holds, finished or not, has changed in the source.
    """
    census, reading = Census(), reading or storage
    new = new_files(plan, files_of(source, reading, census), storage, refuse_changed=True)
    shards = (
        dataclasses.replace(shard, shard=len(plan) + shard.shard) for shard in source.shards(new, reading)
    )
    first = next(shards, None)
    if first is None:
        return plan
    paths = joined_texts(plan.source, source_text(source.path, reading))
    _write_part(plan.folder, paths, first, shards, storage, census)
    grown = load_plan(plan.folder, storage)
    assert grown is not None, "the plan was just written"
    return grown


def share_plan(plan: Plan, folder: str, storage: Storage) -> Plan:
    """Copy the plan's parts that another output lacks, and return that output's plan.

    Raises:
        ConfigError: that output has another plan.
    """
    if plan.folder == folder:
        return plan
    earlier = load_plan(folder, storage)
    known = earlier.parts if earlier is not None else ()
    from_fs, from_folder = storage.open(plan.folder)
    to_fs, to_folder = storage.open(folder)
    if known != plan.parts[: len(known)] or (
        earlier and not earlier.table.equals(plan.table[: len(earlier)])
    ):
        raise ConfigError(
            f"{storage.redact(folder)} and {storage.redact(plan.folder)} were started on different listings "
            "of the source: choose another output"
        )
    for part in plan.parts[len(known) :]:
        with storage.reaching("output", folder):
            write_atomic(
                to_fs, f"{to_folder}/{PLAN}/{part}", from_fs.cat_file(f"{from_folder}/{PLAN}/{part}")
            )
    return dataclasses.replace(plan, folder=folder)


def new_files(
    plan: Plan, entries: Iterable[File], storage: Storage, *, refuse_changed: bool = False
) -> Iterator[File]:
    """List the entries whose URIs are not in the plan.

    Raises:
        ConfigError: `refuse_changed`, and a file that the plan holds has changed since.
    """
    known = (file for shard in plan.shards(storage) for file in shard.own_files)
    pairs = np.fromiter(((hash(file.uri), hash(file)) for file in known), np.dtype((np.int64, 2)))
    names, files = np.sort(pairs.T)
    for file in entries:
        if not holds(names, file.uri):
            yield file
        elif refuse_changed and not holds(files, file):
            raise ConfigError(
                f"{storage.redact(file.uri)} has changed since the run first started, and extend=true takes "
                "new files only: restore it and put what is new into another file, or start a new output"
            )


def _first_samples(shards: Iterable[Shard], source: Source, limit: int, storage: Storage) -> Iterator[Shard]:
    remaining = limit
    for shard in shards:
        samples = samples_of(source, shard, storage, lambda _: Want.NOTHING)
        try:
            count = sum(1 for _ in islice(samples, remaining + 1))
        except ShardError:
            count = remaining + 1  # counts as too many: the run itself reads as far as it can
        yield dataclasses.replace(shard, samples=remaining) if count > remaining else shard
        remaining -= min(count, remaining)
        if remaining == 0:
            return


def _write_part(
    output: str, source: str, first: Shard, more: Iterator[Shard], storage: Storage, census: Census
) -> None:
    """Write a part of the plan; a shard made of several files is a row group, to be read alone.

    The census is complete when the shards have been listed.
    """
    shards = chain([first], more)
    with tempfile.NamedTemporaryFile() as spool:
        with pq.ParquetWriter(spool, SHARDS.with_metadata({_SOURCE: source}), compression="zstd") as writer:
            while batch := list(islice(shards, 1)):
                if not batch[0].files:
                    batch += islice(shards, 9_999)
                rows = [
                    {**vars(shard), "files": [vars(file) for file in shard.files] or None} for shard in batch
                ]
                writer.write_table(pa.Table.from_pylist(rows, schema=SHARDS))
            if census.entries:
                writer.add_key_value_metadata({_CENSUS: json.dumps(census.to_json())})
        spool.flush()
        fs, folder = storage.open(output)
        with storage.reaching("output", output):
            put_atomic(fs, f"{folder}/{PLAN}/{first.shard:06d}.parquet", spool.name)


def _shard(row: dict[str, Any]) -> Shard:  # a row of SHARDS
    files = tuple(File(**file) for file in row.pop("files") or ())
    return Shard(**row, files=files)
