"""Lists the files at a path with sizes and etags, sorted by URI."""

import heapq
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import Any  # fsspec and S3 return dictionaries with any keys

import fsspec
from fsspec.implementations.local import LocalFileSystem
from fsspec.utils import glob_translate

from pipeline.storage.external_sort import Line, in_order
from pipeline.storage.inventory import read_inventory
from pipeline.storage.listed import select_lines
from pipeline.storage.names import as_text
from pipeline.storage.outputs import OutputFiles
from pipeline.storage.parallel_pages import parallel_pages
from pipeline.storage.places import Place, info_of, look_up_places, overlapping_places
from pipeline.storage.uris import Storage
from pipeline.storage.walk import glob_of, walk
from pipeline.support import log
from pipeline.support.census import PassedOver, Reason, is_hidden
from pipeline.support.errors import ConfigError

_NO_ETAGS = "has no etags: a file that changes and keeps its size is not noticed"


@dataclass(frozen=True)
class File:
    """Holds one line of a listing: canonical URI, size in bytes, etag (or modification time)."""

    uri: str
    size: int
    etag: str

    def is_same(self, other: "File | None") -> bool:
        """Tell whether another listing has the same file; an etag that one of them lacks is not compared."""
        if other is None or not (self.etag and other.etag):
            return other is not None and (self.uri, self.size) == (other.uri, other.size)
        return self == other


Entry = File | PassedOver
_Placed = tuple[str, Entry]  # with its URI


@dataclass(frozen=True)
class ListingRules:
    """Says what a listing takes.

    Args:
        follow_links: on a local disk; else links are passed over.
        of_tables: pass over names that begin with `_`, too.
        reads: tells whether the source reads a file of this URI; each of several paths must have one.
        listing: a table of files that is read instead of asking the store; see `storage/inventory.py`.
    """

    follow_links: bool = False
    of_tables: bool = False
    reads: Callable[[str], bool] = lambda _: True
    listing: str | None = None


def list_files(uri: str, storage: Storage) -> Iterator[File]:
    """List the files at a place, over links too, without what `list_entries` passes over."""
    return (
        entry
        for entry in list_entries(uri, storage, ListingRules(follow_links=True))
        if isinstance(entry, File)
    )


def list_entries(path: object, storage: Storage, rules: ListingRules = ListingRules()) -> Iterator[Entry]:
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
    if rules.listing is not None:
        with storage.reaching("source.listing", rules.listing):
            yield from _listed(rules.listing, places, storage, rules)
        return
    if len(places) == 1:
        yield from (entry for _, entry in _entries(places[0], storage, rules))
        return
    last = ""
    for group in overlapping_places(places):
        streams = [_required(place, _entries(place, storage, rules), rules) for place in group]
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


def _required(place: Place, entries: Iterator[_Placed], rules: ListingRules) -> Iterator[_Placed]:
    """Yield the entries of one of several places; ConfigError if none of them is read."""
    empty = True
    for uri, entry in entries:
        empty = empty and not _is_read(entry, rules)
        yield uri, entry
    if empty:
        raise ConfigError(f"source.path: {place.text} has nothing that the source reads")


def _listed(listing: str, places: list[Place], storage: Storage, rules: ListingRules) -> Iterator[Entry]:
    """Yield what a table of files has of some places; ConfigError if it has nothing of one of them."""
    filters: dict[str, _Filter] = {}

    def judged(line: Line, place: Place) -> Entry:
        if line[0] == place.uri:
            return File(*line)
        if place.path not in filters:
            filters[place.path] = _Filter(place, storage, rules)
        return filters[place.path].judged(line[0], File(*line))

    empty, has_etags = {place.path for place in places}, True
    for line, (place, *others) in select_lines(read_inventory(listing, storage), places, listing):
        entry = judged(line, place)
        for around in (place, *others):
            if around.path in empty and (len(places) == 1 or _is_read(judged(line, around), rules)):
                empty.discard(around.path)
        if has_etags and not line[2]:
            has_etags = False
            log.tell("no_etags", storage.redact(f"source.listing: {listing} {_NO_ETAGS}"))
        yield entry
    for place in places:
        if place.path in empty:
            raise ConfigError(storage.redact(f"source.path: {listing} names no file at {place.text} to read"))


def _is_read(entry: Entry, rules: ListingRules) -> bool:
    return isinstance(entry, File) and rules.reads(entry.uri)


def _entries(place: Place, storage: Storage, rules: ListingRules) -> Iterator[_Placed]:
    fs = place.fs
    with storage.reaching("source.path", place.text):
        if place.info is not None and place.info["type"] == "file":
            file = _file(fs, place.info)
            yield file.uri, file
            return
        filtered = _Filter(place, storage, rules)
        for uri, found in _list_place(place, rules):
            yield uri, filtered.judged(uri, found)


class _Filter:
    """Passes over, by their paths below the folder of a place, hidden files and those of outputs."""

    def __init__(self, place: Place, storage: Storage, rules: ListingRules) -> None:
        fs, prefix = place.fs, place.prefix
        folder = place.path if prefix is None else prefix[: prefix.rfind("/") + 1]
        self._root = as_text(str(fs.unstrip_protocol(folder))).rstrip("/") + "/"
        self._outputs = OutputFiles(fs, self._root, storage.outputs)
        self._of_tables = rules.of_tables

    def judged(self, uri: str, found: File | Reason) -> Entry:
        """Return the file that was found, or what says why it is passed over."""
        name = uri.removeprefix(self._root)
        if is_hidden(name, of_tables=self._of_tables):
            return PassedOver(name, Reason.HIDDEN)
        if self._outputs.holds(name):
            return PassedOver(name, Reason.OUTPUT)
        return found if isinstance(found, File) else PassedOver(name, found)


def _list_place(place: Place, rules: ListingRules) -> Iterator[tuple[str, File | Reason]]:
    """List what is below a folder or matches a glob, each with its URI; what is no file by its reason."""
    fs, path, prefix = place.fs, place.path, place.prefix
    if isinstance(fs, LocalFileSystem):
        yield from _local(place, rules)
    elif "s3" in fs.protocol:
        yield from ((line[0], File(*line)) for line in in_order(_objects(place)))
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


def _local(place: Place, rules: ListingRules) -> Iterator[tuple[str, File | Reason]]:
    path, prefix = place.path, place.prefix
    if prefix is None and place.info is None:
        raise FileNotFoundError(path)
    if place.info is not None and place.info["type"] != "directory":
        raise OSError("it is neither a file nor a folder")
    folder = path if prefix is None else prefix[: prefix.rfind("/")] or "/"
    if prefix is not None and not Path(folder).is_dir():
        return
    glob = glob_of(place.glob) if prefix is not None else None
    for name, found in walk(folder, follow_links=rules.follow_links, glob=glob):
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


def _objects(place: Place) -> Iterator[Line]:
    """Yield the objects below an S3 path, or that match it as a glob, in no order.

    Of a glob the store lists everything that begins with the part before its first wildcard.

    Raises:
        FileNotFoundError: a folder has no objects.
    """
    fs, path, prefix = place.fs, place.path, place.prefix
    matches = re.compile(glob_translate(place.glob)).match if prefix is not None else lambda _: True
    bucket = path.partition("/")[0]
    empty = True
    for page in parallel_pages(fs, f"{path}/" if prefix is None else prefix):
        for item in page:
            name = f"{bucket}/{item['Key']}"
            if not name.endswith("/") and matches(name):  # such names mark folders
                empty = False
                yield f"s3://{name}", item["Size"], _etag(item)
    if empty and prefix is None:
        raise FileNotFoundError(path)


def _file(fs: fsspec.AbstractFileSystem, info: dict[str, Any]) -> File:
    if isinstance(fs, LocalFileSystem):
        return File(
            as_text(f"file://{info['name']}"), info["size"], f"{Path(info['name']).stat().st_mtime_ns:x}"
        )
    return File(fs.unstrip_protocol(info["name"]), info["size"], _etag(info))


def _etag(info: dict[str, Any]) -> str:
    etag = info.get("ETag") or info.get("etag") or info.get("LastModified") or info.get("mtime") or ""
    return str(etag).strip('"')
