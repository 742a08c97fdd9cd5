"""Lists the files at a path with sizes and etags, sorted by URI."""

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
from typing import Any  # fsspec and S3 return dictionaries with any keys

import fsspec
from fsspec.implementations.local import LocalFileSystem
from fsspec.utils import glob_translate

from pipeline.storage.names import as_text
from pipeline.storage.uris import Storage, s3_pages
from pipeline.support.census import PassedOver, Reason, is_hidden

_WILDCARD = re.compile(r"[*?\[]")
# The most files of a store's listing that are sorted in memory: some 50 MiB.
_RUN_FILES = 100_000


@dataclass(frozen=True)
class File:
    """Holds one line of a listing: canonical URI, size in bytes, etag (or modification time)."""

    uri: str
    size: int
    etag: str


def list_files(uri: str, storage: Storage) -> Iterator[File]:
    """List the files that `list_entries` lists, without what it passes over."""
    return (entry for entry in list_entries(uri, storage) if isinstance(entry, File))


def list_entries(uri: str, storage: Storage) -> Iterator[File | PassedOver]:
    """List a file, the files below a folder, or those that match a glob, sorted by URI.

    Hidden files and what is no file are passed over, by their paths below the folder that is listed. Local
    folders and S3 are listed as a stream: memory does not grow with the number of files.

    Raises:
        ConfigError: nothing exists at the path, or it may not be listed.
    """
    fs, path = storage.open(uri)
    with storage.reaching("source.path", uri):
        info = _info(fs, path)
        prefix = before_wildcard(path) if info is None else None
        if info is not None and info["type"] == "file":
            yield _file(fs, info)
            return
        folder = path if prefix is None else prefix[: prefix.rfind("/") + 1]
        root = as_text(str(fs.unstrip_protocol(folder))).rstrip("/") + "/"
        for entry in _below(fs, path, info, prefix):
            name = (entry.uri if isinstance(entry, File) else entry.name).removeprefix(root)
            if is_hidden(name):
                yield PassedOver(name, Reason.HIDDEN)
            else:
                yield entry if isinstance(entry, File) else PassedOver(name, entry.reason)


def _below(
    fs: fsspec.AbstractFileSystem, path: str, info: dict[str, Any] | None, prefix: str | None
) -> Iterator[File | PassedOver]:
    """List what is below a folder or matches a glob, whose part before its first wildcard is `prefix`."""
    if isinstance(fs, LocalFileSystem) and info is not None:
        yield from _walk(path)
    elif "s3" in fs.protocol:
        yield from _in_order(_objects(fs, path, prefix))
    else:
        infos = fs.find(path, detail=True) if prefix is None else fs.glob(path, detail=True)
        if not infos and prefix is None:
            raise FileNotFoundError(path)
        for _, entry in sorted(infos.items()):
            if entry["type"] == "file":
                yield _file(fs, entry)
            elif entry["type"] != "directory":
                yield _no_file(as_text(fs.unstrip_protocol(entry["name"])), bool(entry.get("islink")))


def _no_file(uri: str, is_link: bool) -> PassedOver:
    return PassedOver(uri, Reason.DANGLING if is_link else Reason.SPECIAL)


def before_wildcard(path: str) -> str | None:
    """Return the part of a path or URI before its first wildcard; None if it has no wildcard."""
    wildcard = _WILDCARD.search(path)
    return path[: wildcard.start()] if wildcard else None


def _info(fs: fsspec.AbstractFileSystem, path: str) -> dict[str, Any] | None:
    """Return fsspec's info of a path, or None. Unlike `isfile` it raises if the store cannot be reached."""
    try:
        return dict(fs.info(path))
    except (FileNotFoundError, PermissionError):  # a folder or a glob may still be listed
        return None


def _walk(folder: str) -> Iterator[File | PassedOver]:
    """Yield the files below a local folder, sorted by whole path, with one folder in memory at a time."""
    with scandir(folder) as entries:
        ordered = sorted(entries, key=lambda entry: as_text(entry.name) + ("/" if entry.is_dir() else ""))
    for entry in ordered:
        if entry.is_dir():
            yield from _walk(entry.path)
        elif entry.is_file():
            stat = entry.stat()
            yield File(as_text(f"file://{entry.path}"), stat.st_size, f"{stat.st_mtime_ns:x}")
        else:
            yield _no_file(as_text(f"file://{entry.path}"), entry.is_symlink())


def _objects(fs: fsspec.AbstractFileSystem, path: str, prefix: str | None) -> Iterator[File]:
    """Yield the objects below an S3 path, or that match it as a glob, in the store's own order.

    Args:
        prefix: of a glob, the part before its first wildcard: the store lists everything that begins so.

    Raises:
        FileNotFoundError: a folder has no objects.
    """
    matches = re.compile(glob_translate(path)).match if prefix is not None else lambda _: True
    bucket = path.partition("/")[0]
    empty = True
    for page in s3_pages(fs, f"{path}/" if prefix is None else prefix):
        for item in page.get("Contents", ()):
            name = f"{bucket}/{item['Key']}"
            if not name.endswith("/") and matches(name):  # such names mark folders
                empty = False
                yield _file(fs, {**item, "name": name, "size": item["Size"]})
    if empty and prefix is None:
        raise FileNotFoundError(path)


def _in_order(files: Iterator[File]) -> Iterator[File]:
    """Sort files by URI with an external merge sort: sorted runs are kept on disk and merged.

    S3 itself lists in the order of the keys' bytes, but not every store does: SeaweedFS lists `a/b`
    before `a-b`.
    """
    by_uri = attrgetter("uri")
    with ExitStack() as stack:
        runs: list[Iterator[File]] = []
        while run := sorted(islice(files, _RUN_FILES), key=by_uri):
            runs.append(iter(run) if len(run) < _RUN_FILES else _on_disk(run, stack))
            del run
        yield from heapq.merge(*runs, key=by_uri)


def _on_disk(run: list[File], stack: ExitStack) -> Iterator[File]:
    """Move a run to a temporary file and iterate over that; it is deleted when `stack` closes."""
    disk = stack.enter_context(tempfile.TemporaryFile())  # noqa: SIM115 - closed by the stack
    with gzip.open(disk, "wt", compresslevel=1) as sink:
        sink.writelines(json.dumps([file.uri, file.size, file.etag]) + "\n" for file in run)
    disk.seek(0)
    return (File(*json.loads(line)) for line in gzip.open(disk, "rt"))


def _file(fs: fsspec.AbstractFileSystem, info: dict[str, Any]) -> File:
    if isinstance(fs, LocalFileSystem):
        return File(
            as_text(f"file://{info['name']}"), info["size"], f"{Path(info['name']).stat().st_mtime_ns:x}"
        )
    etag = info.get("ETag") or info.get("etag") or info.get("LastModified") or info.get("mtime") or ""
    return File(fs.unstrip_protocol(info["name"]), info["size"], str(etag).strip('"'))
