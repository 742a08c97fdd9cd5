"""The plan: the source's listing, frozen in the output when a run first starts.

It only ever grows at its end, one Parquet file per growth, named after its first shard. A shard that
failed and was mended in the source is renewed in its place.
"""

import dataclasses
import re
import tempfile
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice, pairwise
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.output.layout import PLAN
from pipeline.sources.base import Shard, Source, Want
from pipeline.storage.listing import File, list_files
from pipeline.storage.uris import Storage, canonical, list_names, put_atomic, write_atomic
from pipeline.support.errors import ConfigError, RunError, ShardError
from pipeline.support.schema import SHARDS

_SOURCE = b"source"
_LIGHT = [name for name in SHARDS.names if name != "files"]


@dataclass(frozen=True)
class Plan:
    """The frozen listing of one output. A shard's own files are read only when asked for."""

    folder: str  # URI of the output
    source: str  # canonical URI of what was listed
    table: pa.Table  # SHARDS without `files`
    parts: tuple[str, ...]  # names of the files under plan/

    def __len__(self) -> int:
        return int(self.table.num_rows)

    def size(self, shard: int) -> int:
        """A shard's size in bytes."""
        return int(self.table["size"][shard].as_py())

    def line(self, shard: int) -> dict[str, Any]:
        """A shard's uri, size, etag and number of samples."""
        return {name: self.table[name][shard].as_py() for name in _LIGHT}

    def shard(self, ordinal: int, storage: Storage) -> Shard:
        """One shard with its files, as the plan holds it."""
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
        """All shards with their files, in order, one row group of the plan in memory at a time."""
        for part in self.parts:
            yield from self._of_part(part, storage)

    def _of_part(self, part: str, storage: Storage) -> Iterator[Shard]:
        fs, folder = storage.open(self.folder)
        with fs.open(f"{folder}/{PLAN}/{part}", "rb") as file:
            reader = pq.ParquetFile(file)
            for group in range(reader.num_row_groups):
                yield from map(_shard, reader.read_row_group(group).to_pylist())

    def renew(self, mended: Mapping[int, Shard], storage: Storage) -> None:
        """Put shards as they are now in the place of those that were, one part after the other."""
        starts = [*map(_first_shard, self.parts), len(self)]
        for part, (first, stop) in zip(self.parts, pairwise(starts), strict=True):
            if any(first <= number < stop for number in mended):
                shards = (mended.get(shard.shard, shard) for shard in self._of_part(part, storage))
                _write_part(self.folder, self.source, next(shards), shards, storage)


def load_plan(output: str, storage: Storage) -> Plan | None:
    """The plan of an output, or None if it has none yet."""
    fs, folder = storage.open(output)
    names = (name for name in list_names(fs, f"{folder}/{PLAN}") if re.fullmatch(r"\d+\.parquet", name))
    parts = sorted(names, key=_first_shard)
    if not parts:
        return None
    tables = [_read_light(fs, f"{folder}/{PLAN}/{name}") for name in parts]
    source = tables[0].schema.metadata[_SOURCE].decode()
    return Plan(output, source, pa.concat_tables(tables), tuple(parts))


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
        return pq.read_table(file, columns=_LIGHT)


def make_plan(output: str, source: Source, limit: int | None, storage: Storage) -> Plan:
    """List the source and freeze what it holds; `limit` takes only the first samples.

    Raises:
        ConfigError: the source lists nothing.
    """
    shards = source.shards(source.entries(storage), storage)
    if limit is not None:
        shards = _first_samples(shards, source, limit, storage)
    first = next(shards, None)
    assert first is not None, "a source without entries has raised"
    _write_part(output, canonical(source.path, storage), first, shards, storage)
    plan = load_plan(output, storage)
    assert plan is not None, "the plan was just written"
    return plan


def extend_plan(plan: Plan, source: Source, storage: Storage) -> Plan:
    """Append the shards of files that are new in the source, by their names.

    Raises:
        ConfigError: a file that the plan holds, finished or not, has changed in the source.
    """
    new = new_files(plan, source.entries(storage), storage, refuse_changed=True)
    shards = (
        dataclasses.replace(shard, shard=len(plan) + shard.shard) for shard in source.shards(new, storage)
    )
    first = next(shards, None)
    if first is None:
        return plan
    _write_part(plan.folder, plan.source, first, shards, storage)
    grown = load_plan(plan.folder, storage)
    assert grown is not None, "the plan was just written"
    return grown


def share_plan(plan: Plan, folder: str, storage: Storage) -> Plan:
    """The same plan in another output: what is missing there is copied.

    Raises:
        ConfigError: that output has another plan.
    """
    if plan.folder == folder:
        return plan
    there = load_plan(folder, storage)
    known = there.parts if there is not None else ()
    from_fs, from_folder = storage.open(plan.folder)
    to_fs, to_folder = storage.open(folder)
    if known != plan.parts[: len(known)] or (there and not there.table.equals(plan.table[: len(there)])):
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
    """List the entries that the plan has no name for.

    Raises:
        ConfigError: `refuse_changed`, and a file that the plan holds has changed since.
    """
    known = (file for shard in plan.shards(storage) for file in shard.own_files)
    pairs = np.fromiter(((hash(file.uri), hash(file)) for file in known), np.dtype((np.int64, 2)))
    names, files = np.sort(pairs.T)
    for file in entries:
        if not _holds(names, file.uri):
            yield file
        elif refuse_changed and not _holds(files, file):
            raise ConfigError(
                f"{storage.redact(file.uri)} has changed since the run first started, and extend=true takes "
                "new files only: restore it and put what is new into another file, or start a new output"
            )


def changed_files(
    plan: Plan, passed_over: Callable[[int], bool], entries: Iterable[File], storage: Storage
) -> Iterator[tuple[Shard, File]]:
    """The files, of shards that are not passed over, that the entries do not hold as the plan does."""
    present = _hashes(entries)
    for shard in plan.shards(storage):
        for file in () if passed_over(shard.shard) else shard.own_files:
            if not _holds(present, file):
                yield shard, file


def require_unchanged(
    plan: Plan, is_finished: Callable[[int], bool], source: Source, storage: Storage
) -> None:
    """Refuse, by name, a shard that is not finished and whose files no longer equal the plan's."""
    for shard, file in changed_files(plan, is_finished, source.entries(storage), storage):
        raise has_changed(shard, file, storage)


def has_changed(shard: Shard, file: File, storage: Storage) -> ConfigError:
    """The refusal of a shard that is to be read and no longer equals the plan's."""
    return ConfigError(
        f"shard {shard.shard} has changed or is gone since the run first started: "
        f"{storage.redact(file.uri)}; restore it, or start a new output"
    )


def require_same(shard: Shard, storage: Storage) -> None:
    """Refuse a shard whose one file is no longer what the plan says, just before it is read.

    Raises:
        RunError: the file has changed.
        ConfigError: it is gone.
    """
    if shard.files:
        return
    if next(list_files(shard.uri, storage)) != File(shard.uri, shard.size, shard.etag):
        raise RunError(f"shard {shard.shard} has changed during the run: {storage.redact(shard.uri)}")


def _first_samples(shards: Iterable[Shard], source: Source, limit: int, storage: Storage) -> Iterator[Shard]:
    left = limit
    for shard in shards:
        samples = source.samples(shard, storage, lambda _: Want.NOTHING)
        try:
            count = sum(1 for _ in islice(samples, left + 1))
        except ShardError:
            count = left + 1  # what can be read of it is found out by the run
        yield dataclasses.replace(shard, samples=left) if count > left else shard
        left -= min(count, left)
        if left == 0:
            return


def _write_part(output: str, source: str, first: Shard, more: Iterator[Shard], storage: Storage) -> None:
    """One row group per shard that is a slice of files, so that it can be read alone."""
    shards = (shard for some in ([first], more) for shard in some)
    with tempfile.NamedTemporaryFile() as spool:
        with pq.ParquetWriter(spool, SHARDS.with_metadata({_SOURCE: source}), compression="zstd") as writer:
            while batch := list(islice(shards, 1)):
                if not batch[0].files:
                    batch += islice(shards, 9_999)
                rows = [
                    {**vars(shard), "files": [vars(file) for file in shard.files] or None} for shard in batch
                ]
                writer.write_table(pa.Table.from_pylist(rows, schema=SHARDS))
        spool.flush()
        fs, folder = storage.open(output)
        with storage.reaching("output", output):
            put_atomic(fs, f"{folder}/{PLAN}/{first.shard:06d}.parquet", spool.name)


def _shard(row: dict[str, Any]) -> Shard:
    files = tuple(File(**file) for file in row.pop("files") or ())
    return Shard(**row, files=files)


def _hashes(items: Iterable[Hashable]) -> np.ndarray:
    """Eight bytes an item, sorted: a listing of millions fits."""
    hashes = np.fromiter(map(hash, items), np.int64)
    hashes.sort()
    return hashes


def _holds(hashes: np.ndarray, item: Hashable) -> bool:
    value = hash(item)
    place = int(np.searchsorted(hashes, value))
    return place < len(hashes) and int(hashes[place]) == value
