"""Reads and writes the Parquet files below plan/, each with some of the plan's lines.

    000000.parquet                    the first part of a growth; its metadata name the growth's further parts
    001000-0123456789abcdef.parquet   a further part, named after its first shard and a hash of its content
    renewed-000123.parquet            one line, in the place of the part's

A growth is in the plan as soon as its first part is there, which is written last, and only if no other writer
has written one of this name: so of several writers at once, one makes the growth. What is there of further
parts that no first part names is left over from the others. Up to release 0.1.0 a growth was one file.
"""

import hashlib
import json
import re
import tempfile
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import IO, Any, NamedTuple

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.output.layout import PLAN
from pipeline.sources.base import Shard
from pipeline.storage.create import create_atomic
from pipeline.storage.listing import File
from pipeline.storage.uris import Storage, put_atomic, write_atomic
from pipeline.support.census import Census
from pipeline.support.errors import ConfigError
from pipeline.support.schema import SHARDS

PART_SHARDS = 1000  # of a part at the most
_GROUP_FILES = 4096  # a row group is closed when its shards have so many files: it is read for one of them
_SOURCE, _CENSUS, _FURTHER, _LINES = b"source", b"census", b"parts", b"lines"
_LIGHT = [name for name in SHARDS.names if name != "files"]
_FIRST_PART = re.compile(r"\d+\.parquet")
_FURTHER_PART = re.compile(r"\d+-[0-9a-f]{16}\.parquet")
_RENEWED = re.compile(r"renewed-(\d+)\.parquet")
_OF_PLAN = re.compile(r"(?:renewed-\d+|\d+(?:-[0-9a-f]{16})?)\.parquet")
_READ_BYTES = 1 << 20  # of one request for a line to a store


class LinePlace(NamedTuple):
    """Says where a shard's line is: in which file below plan/, in which of its row groups, in which row."""

    file: str
    group: int
    row: int


@dataclass(frozen=True, eq=False)
class LightPart:
    """Holds a file's lines without the shards' own files.

    Args:
        table: SHARDS without `files`.
        groups, rows: of each line, its row group and its row there.
        source: canonical URI of the listed path, or JSON of several.
        census: what the listing passed over.
        further: names of the growth's further parts.
    """

    name: str
    table: pa.Table
    groups: "np.ndarray[Any, np.dtype[np.int32]]"
    rows: "np.ndarray[Any, np.dtype[np.int32]]"
    source: str
    census: Census
    further: tuple[str, ...]


def is_first_part(name: str) -> bool:
    """Tell whether a file below plan/ is the first part of a growth."""
    return _FIRST_PART.fullmatch(name) is not None


def is_further_part(name: str) -> bool:
    """Tell whether a file below plan/ is a further part of a growth, in the plan or not."""
    return _FURTHER_PART.fullmatch(name) is not None


def is_of_plan(name: str) -> bool:
    """Tell whether a file below plan/ has a name that we give."""
    return _OF_PLAN.fullmatch(name) is not None


def first_shard(part: str) -> int:
    """Read the number of a part's first shard off its name."""
    return int(re.split(r"[-.]", part)[0])


def renewed_shard(name: str) -> int | None:
    """Read a shard's number off the name of the file with its renewed line; None: it is no such file."""
    match = _RENEWED.fullmatch(name)
    return int(match[1]) if match else None


def read_light(fs: fsspec.AbstractFileSystem, folder: str, name: str) -> LightPart:
    """Read a file of the plan without the shards' own files.

    Raises:
        ConfigError: it is gone.
        ArrowException: it is damaged.
    """
    try:
        with fs.open(f"{folder}/{PLAN}/{name}", "rb") as file:
            reader = pq.ParquetFile(file)
            metadata = reader.metadata
            texts = {**(reader.schema_arrow.metadata or {}), **(metadata.metadata or {})}
            table = _lines_in(texts) if _LINES in texts else reader.read(columns=_LIGHT)
    except FileNotFoundError:
        raise ConfigError(f"output: a part of the plan is gone: {PLAN}/{name}; restore it") from None
    sizes = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
    starts = np.cumsum([0, *sizes[:-1]]) if sizes else np.zeros(0, np.int64)
    return LightPart(
        name,
        table.replace_schema_metadata(None),
        np.repeat(np.arange(len(sizes), dtype=np.int32), sizes),
        (np.arange(table.num_rows) - np.repeat(starts, sizes)).astype(np.int32),
        texts[_SOURCE].decode(),
        Census.from_json(json.loads(texts[_CENSUS])) if texts.get(_CENSUS) else Census(),
        tuple(json.loads(texts.get(_FURTHER, b"[]"))),
    )


def part_metadata(folder: str, name: str, storage: Storage) -> pq.FileMetaData:
    """Read the Parquet metadata of a file below plan/, which reading a line of it takes."""
    fs, path = storage.open(folder)
    with fs.open(f"{path}/{PLAN}/{name}", "rb", block_size=_READ_BYTES) as file:
        return pq.read_metadata(file)


def read_planned(
    folder: str, place: LinePlace, storage: Storage, metadata: pq.FileMetaData | None = None
) -> Shard:
    """Read one shard with its files; of the plan's other files none is opened.

    Args:
        folder: URI of the output.
        metadata: the file's, if they are known: reading them takes longer than reading the line.
    """
    fs, path = storage.open(folder)
    with fs.open(f"{path}/{PLAN}/{place.file}", "rb", block_size=_READ_BYTES) as file:
        reader = pq.ParquetFile(file, metadata=metadata)
        return _shard(reader.read_row_group(place.group).slice(place.row, 1).to_pylist()[0])


def read_runs(
    folder: str, file_name: str, runs: Iterable[tuple[int, int, int]], storage: Storage
) -> Iterator[Shard]:
    """Read runs of lines (row group, first row, number) of one file; one row group is in memory at a time."""
    fs, path = storage.open(folder)
    with fs.open(f"{path}/{PLAN}/{file_name}", "rb") as file:
        reader = pq.ParquetFile(file)
        for group, first, count in runs:
            yield from map(_shard, reader.read_row_group(group).slice(first, count).to_pylist())


def write_growth(
    output: str,
    source: str,
    shards: Iterator[Shard],
    storage: Storage,
    census: Census,
    before_commit: Callable[[], object] | None = None,
) -> bool:
    """Write a growth of the plan; returns whether the plan has it now, and not one of another writer.

    Args:
        source: canonical URI of the listed path, or JSON of several.
        shards: at least one, numbered on from the plan's end. They are listed while they are written.
        census: of the listing, complete when the shards have been listed.
        before_commit: called when all is written but the first part.
    """
    first = next(shards)
    fs, folder = storage.open(output)
    with tempfile.NamedTemporaryFile() as spool:
        with pq.ParquetWriter(spool, SHARDS.with_metadata({_SOURCE: source}), compression="zstd") as writer:
            _write_shards(writer, chain([first], islice(shards, PART_SHARDS - 1)))
            further = [
                _put_further(output, source, head, islice(shards, PART_SHARDS - 1), storage)
                for head in shards
            ]
            if further:
                writer.add_key_value_metadata({_FURTHER: json.dumps(further)})
            if census.entries:
                writer.add_key_value_metadata({_CENSUS: json.dumps(census.to_json())})
        spool.flush()
        if before_commit is not None:
            before_commit()
        with storage.reaching("output", output):
            data = Path(spool.name).read_bytes()
            return create_atomic(fs, f"{folder}/{PLAN}/{first.shard:06d}.parquet", data)


def write_renewed(output: str, source: str, shard: Shard, storage: Storage) -> None:
    """Write a shard's line that takes the place of the part's."""
    fs, folder = storage.open(output)
    with tempfile.TemporaryFile() as spool:
        _write_part(spool, source, iter([shard]))
        spool.seek(0)
        with storage.reaching("output", output):
            write_atomic(fs, f"{folder}/{PLAN}/renewed-{shard.shard:06d}.parquet", spool.read())


def _put_further(output: str, source: str, first: Shard, more: Iterator[Shard], storage: Storage) -> str:
    """Write a further part of a growth, and return its name."""
    fs, folder = storage.open(output)
    with tempfile.NamedTemporaryFile() as spool:
        _write_part(spool, source, chain([first], more))
        spool.flush()
        spool.seek(0)
        digest = hashlib.file_digest(spool, "sha256").hexdigest()[:16]
        name = f"{first.shard:06d}-{digest}.parquet"
        with storage.reaching("output", output):
            put_atomic(fs, f"{folder}/{PLAN}/{name}", spool.name)
    return name


def _write_part(spool: IO[bytes], source: str, shards: Iterator[Shard]) -> None:
    with pq.ParquetWriter(spool, SHARDS.with_metadata({_SOURCE: source}), compression="zstd") as writer:
        _write_shards(writer, shards)


def _write_shards(writer: pq.ParquetWriter, shards: Iterator[Shard]) -> None:
    """Write shards in row groups of some `_GROUP_FILES` files; a shard of so many files is a group alone.

    Of several groups the lines without files go into the metadata, too: to read them from a thousand groups
    takes 0.25 s.
    """
    rows: list[dict[str, Any]] = []  # of SHARDS
    light: list[pa.Table] = []
    files = 0
    for shard in chain(shards, [None]):
        if shard is not None:
            rows.append({**vars(shard), "files": [vars(file) for file in shard.files] or None})
            files += max(1, len(shard.files))
        if rows and (shard is None or files >= _GROUP_FILES):
            group = pa.Table.from_pylist(rows, schema=SHARDS)
            writer.write_table(group)
            light.append(group.select(_LIGHT).replace_schema_metadata(None))
            rows, files = [], 0
    if len(light) > 1:
        writer.add_key_value_metadata({_LINES: b64encode(_stream(pa.concat_tables(light)))})


def _stream(lines: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, lines.schema, options=pa.ipc.IpcWriteOptions(compression="zstd")) as stream:
        stream.write_table(lines.combine_chunks())
    return bytes(sink.getvalue())


def _lines_in(texts: Mapping[bytes, bytes]) -> pa.Table:
    return pa.ipc.open_stream(b64decode(texts[_LINES])).read_all()


def _shard(row: dict[str, Any]) -> Shard:  # a row of SHARDS
    files = tuple(File(**file) for file in row.pop("files") or ())
    return Shard(**row, files=files)
