"""Lists the files at a path with sizes and etags, sorted by URI."""

import gzip
import heapq
import json
import re
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import islice
from operator import attrgetter, itemgetter
from pathlib import Path
from typing import Any  # fsspec and S3 return dictionaries with any keys

import fsspec
from fsspec.implementations.local import LocalFileSystem
from fsspec.utils import glob_translate

from pipeline.storage.names import as_text
from pipeline.storage.outputs import OutputFiles
from pipeline.storage.pages import s3_pages
from pipeline.storage.places import Place, info_of, look_up_places, overlapping_places
from pipeline.storage.uris import Storage
from pipeline.storage.walk import glob_of, walk
from pipeline.support.census import PassedOver, Reason, is_hidden
from pipeline.support.errors import ConfigError

# The most files of a store's listing that are sorted in memory: some 50 MiB.
_RUN_FILES = 100_000


@dataclass(frozen=True)
class File:
    """Holds one line of a listing: canonical URI, size in bytes, etag (or modification time)."""

    uri: str
    size: int
    etag: str


Entry = File | PassedOver
_Placed = tuple[str, Entry]  # with its URI


@dataclass(frozen=True)
class ListingRules:
    """Says what a listing takes.

    Args:
        follow_links: on a local disk; else links are passed over.
        of_tables: pass over names that begin with `_`, too.
        reads: tells whether the source reads a file of this URI; each of several paths must have one.
    """

    follow_links: bool = False
    of_tables: bool = False
    reads: Callable[[str], bool] = lambda _: True


def list_files(uri: str, storage: Storage) -> Iterator[File]:
    """List the files at a place, over links too, without what `list_entries` passes over."""
    return (
        entry
        for entry in list_entries(uri, storage, ListingRules(follow_links=True))
        if isinstance(entry, File)
    )


def list_entries(path: object, storage: Storage, selection: ListingRules = ListingRules()) -> Iterator[Entry]:
    """List a file, the files below a folder, or those that match a glob, sorted by URI, each once.

    Hidden files, outputs of Trimline and what is no file are passed over, by their paths below the folder
    that is listed. Local folders and S3 are listed as a stream: memory does not grow with their files.

    Args:
        path: a path or URI, or a list of them, whose braces stand for several; see `storage/paths.py`.

    Raises:
        ConfigError: nothing exists at the path, or at one of several, or it may not be listed.
    """
    with naming_key(storage):
        places = list(look_up_places(path, storage))
    if len(places) == 1:
        yield from (entry for _, entry in _entries(places[0], storage, selection))
        return
    last = ""
    for group in overlapping_places(places):
        streams = [_required(place, _entries(place, storage, selection), selection) for place in group]
        for uri, entry in heapq.merge(*streams, key=itemgetter(0)):
            if uri != last:
                yield entry
            last = uri


@contextmanager
def naming_key(storage: Storage) -> Iterator[None]:
    """Put `source.path` before the message of a ConfigError that does not name it."""
    try:
        yield
    except ConfigError as error:
        text = str(error)
        raise ConfigError(text if text.startswith("source.path") else f"source.path: {text}") from None


def _required(place: Place, entries: Iterator[_Placed], selection: ListingRules) -> Iterator[_Placed]:
    """Yield the entries of one of several places; ConfigError if none of them is read."""
    empty = True
    for uri, entry in entries:
        empty = empty and not (isinstance(entry, File) and selection.reads(uri))
        yield uri, entry
    if empty:
        raise ConfigError(f"source.path: {place.text} has nothing that the source reads")


def _entries(place: Place, storage: Storage, selection: ListingRules) -> Iterator[_Placed]:
    fs, prefix = place.fs, place.prefix
    with storage.reaching("source.path", place.text):
        if place.info is not None and place.info["type"] == "file":
            file = _file(fs, place.info)
            yield file.uri, file
            return
        folder = place.path if prefix is None else prefix[: prefix.rfind("/") + 1]
        root = as_text(str(fs.unstrip_protocol(folder))).rstrip("/") + "/"
        outputs = OutputFiles(fs, root, storage.outputs)
        for uri, entry in _list_place(place, selection):
            name = uri.removeprefix(root)
            if is_hidden(name, of_tables=selection.of_tables):
                yield uri, PassedOver(name, Reason.HIDDEN)
            elif outputs.holds(name):
                yield uri, PassedOver(name, Reason.OUTPUT)
            else:
                yield uri, entry if isinstance(entry, File) else PassedOver(name, entry)


def _list_place(place: Place, selection: ListingRules) -> Iterator[tuple[str, File | Reason]]:
    """List what is below a folder or matches a glob, each with its URI; what is no file by its reason."""
    fs, path, prefix = place.fs, place.path, place.prefix
    if isinstance(fs, LocalFileSystem):
        yield from _local(place, selection)
    elif "s3" in fs.protocol:
        yield from ((file.uri, file) for file in _in_order(_objects(place)))
    else:
        infos = fs.find(path, detail=True) if prefix is None else fs.glob(place.glob, detail=True)
        if not infos and prefix is None:
            raise FileNotFoundError(path)
        for _, entry in sorted(infos.items()):
            if entry["type"] == "file":
                file = _file(fs, entry)
                yield file.uri, file
            elif entry["type"] != "directory":
                yield str(fs.unstrip_protocol(entry["name"])), Reason.SPECIAL


def _local(place: Place, selection: ListingRules) -> Iterator[tuple[str, File | Reason]]:
    path, prefix = place.path, place.prefix
    if prefix is None and place.info is None:
        raise FileNotFoundError(path)
    if place.info is not None and place.info["type"] != "directory":
        raise OSError("it is neither a file nor a folder")
    folder = path if prefix is None else prefix[: prefix.rfind("/")] or "/"
    if prefix is not None and not Path(folder).is_dir():
        return
    glob = glob_of(place.glob) if prefix is not None else None
    for name, found in walk(folder, follow_links=selection.follow_links, glob=glob):
        uri = as_text(f"file://{name}")
        if isinstance(found, Reason):
            yield uri, found
        else:
            yield uri, File(uri, found.st_size, f"{found.st_mtime_ns:x}")


def file_at(uri: str, storage: Storage) -> File | None:
    """Look a file up by its name alone; None if there is none.

    Raises:
        ConfigError: the store cannot be reached.
    """
    with storage.reaching("source.path", uri):
        fs, path = storage.open(uri)
        info = info_of(fs, path)
        return _file(fs, info) if info is not None and info["type"] == "file" else None


def _objects(place: Place) -> Iterator[File]:
    """Yield the objects below an S3 path, or that match it as a glob, in the store's own order.

    Of a glob the store lists everything that begins with the part before its first wildcard.

    Raises:
        FileNotFoundError: a folder has no objects.
    """
    fs, path, prefix = place.fs, place.path, place.prefix
    matches = re.compile(glob_translate(place.glob)).match if prefix is not None else lambda _: True
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
