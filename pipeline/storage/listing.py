"""What a source's path holds: files with their sizes and etags, in the order of their URIs."""

import gzip
import heapq
import json
import re
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice
from operator import attrgetter
from os import scandir
from pathlib import Path
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem
from fsspec.utils import glob_translate

from pipeline.storage.uris import Storage, s3_pages

_WILDCARD = re.compile(r"[*?\[]")
# How many files of a store's listing are sorted in memory: some 50 MiB.
_RUN_FILES = 100_000


@dataclass(frozen=True)
class File:
    """One line of a listing: canonical URI, size in bytes, etag (or modification time)."""

    uri: str
    size: int
    etag: str


def list_files(uri: str, storage: Storage) -> Iterator[File]:
    """A file, the files below a folder, or those that match a glob, sorted by URI.

    Local folders and S3 are listed in a stream: memory does not grow with the number of files.

    Raises:
        ConfigError: there is nothing at the path, or it may not be listed.
    """
    fs, path = storage.open(uri)
    with storage.reaching("source.path", uri):
        info = _info(fs, path)
        wildcard = _WILDCARD.search(path) if info is None else None
        if info is not None and info["type"] == "file":
            yield _file(fs, info)
        elif isinstance(fs, LocalFileSystem) and info is not None:
            yield from _walk(path)
        elif "s3" in fs.protocol:
            yield from _in_order(_objects(fs, path, wildcard))
        else:
            found = fs.glob(path, detail=True) if wildcard else fs.find(path, detail=True)
            if not found and not wildcard:
                raise FileNotFoundError(path)
            yield from (_file(fs, info) for _, info in sorted(found.items()) if info["type"] == "file")


def _info(fs: fsspec.AbstractFileSystem, path: str) -> dict[str, Any] | None:
    """What is at a path, or None; unlike `isfile` it does not take a store that is away for no file."""
    try:
        return dict(fs.info(path))
    except (FileNotFoundError, PermissionError):  # a folder or a glob may still be listed
        return None


def _walk(folder: str) -> Iterator[File]:
    """Files below a local folder in the order of their whole paths, one folder in memory at a time."""
    with scandir(folder) as entries:
        ordered = sorted(entries, key=lambda entry: entry.name + ("/" if entry.is_dir() else ""))
    for entry in ordered:
        if entry.is_dir():
            yield from _walk(entry.path)
        elif entry.is_file():
            stat = entry.stat()
            yield File(f"file://{entry.path}", stat.st_size, f"{stat.st_mtime_ns:x}")


def _objects(fs: fsspec.AbstractFileSystem, path: str, wildcard: re.Match[str] | None) -> Iterator[File]:
    """The objects below an S3 path, or that match it as a glob, page by page in the store's own order.

    A glob lists all that begins like it up to its first wildcard. FileNotFoundError if a folder has none.
    """
    matches = re.compile(glob_translate(path)).match if wildcard else lambda _: True
    bucket = path.partition("/")[0]
    empty = True
    for page in s3_pages(fs, path[: wildcard.start()] if wildcard else f"{path}/"):
        for item in page.get("Contents", ()):
            name = f"{bucket}/{item['Key']}"
            if not name.endswith("/") and matches(name):  # such names mark folders
                empty = False
                yield _file(fs, {**item, "name": name, "size": item["Size"]})
    if empty and not wildcard:
        raise FileNotFoundError(path)


def _in_order(files: Iterator[File]) -> Iterator[File]:
    """Some files by URI. Beyond one run of them, what is sorted waits on disk to be merged.

    S3 itself lists in the order of the keys' bytes, but not every store does: SeaweedFS lists `a/b`
    before `a-b`.
    """
    by_uri = attrgetter("uri")
    with ExitStack() as held:
        runs: list[Iterator[File]] = []
        while run := sorted(islice(files, _RUN_FILES), key=by_uri):
            runs.append(iter(run) if len(run) < _RUN_FILES else _on_disk(run, held))
            del run
        yield from heapq.merge(*runs, key=by_uri)


def _on_disk(run: list[File], held: ExitStack) -> Iterator[File]:
    """The same files, out of a temporary file that is gone when `held` closes."""
    disk = held.enter_context(tempfile.TemporaryFile())  # noqa: SIM115 - it is needed beyond this function
    with gzip.open(disk, "wt", compresslevel=1) as sink:
        sink.writelines(json.dumps([file.uri, file.size, file.etag]) + "\n" for file in run)
    disk.seek(0)
    return (File(*json.loads(line)) for line in gzip.open(disk, "rt"))


def _file(fs: fsspec.AbstractFileSystem, info: dict[str, Any]) -> File:
    if isinstance(fs, LocalFileSystem):
        return File(f"file://{info['name']}", info["size"], f"{Path(info['name']).stat().st_mtime_ns:x}")
    etag = info.get("ETag") or info.get("etag") or info.get("LastModified") or info.get("mtime") or ""
    return File(fs.unstrip_protocol(info["name"]), info["size"], str(etag).strip('"'))
