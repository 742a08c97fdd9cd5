"""Looks up the places that a source's path names: files, folders and globs."""

import errno
from collections.abc import Iterator
from dataclasses import dataclass
from operator import attrgetter
from typing import Any  # fsspec returns dictionaries with any keys

import fsspec
from fsspec.utils import glob_translate

from pipeline.storage.names import as_text
from pipeline.storage.paths import before_wildcard, escaped, expanded, has_braces, literal_part, parts_of
from pipeline.storage.uris import Storage
from pipeline.support.errors import ConfigError
from pipeline.support.parallel import THREADS, each


@dataclass(frozen=True)
class Place:
    """Holds one path of a listing; with `prefix`, the part before its first wildcard, it is a glob."""

    text: str  # as the user wrote it
    fs: fsspec.AbstractFileSystem
    path: str
    info: dict[str, Any] | None  # fsspec's; None: there is nothing of exactly this name
    prefix: str | None
    glob: str  # the path, with the folders that are there as they are called

    @property
    def uri(self) -> str:
        """The canonical URI of its path."""
        return as_text(str(self.fs.unstrip_protocol(self.path)))

    @property
    def start(self) -> str:
        """What the URIs of all its files begin with."""
        if self.prefix is not None:
            return as_text(str(self.fs.unstrip_protocol(self.prefix)))
        is_file = self.info is not None and self.info["type"] == "file"
        return self.uri if is_file else self.uri.rstrip("/") + "/"


def look_up_places(path: object, storage: Storage) -> Iterator[Place]:
    """Look up the places that a path names.

    A place of exactly this name wins over braces and wildcards, and so does each of its folders.
    """
    parts = parts_of(path)
    for part, place in zip(parts, each(lambda part: _place(part, storage), parts, THREADS), strict=True):
        if place.info is not None or not has_braces(part):
            yield place
            continue
        with storage.reaching("source.path", part):
            start = len(literal_part(part, lambda folder: is_folder(folder, storage)))
        texts = expanded(part, start) if has_braces(part, start) else [part]
        yield from each(lambda text: _place(text, storage), texts, THREADS)


def _place(text: str, storage: Storage) -> Place:
    with storage.reaching("source.path", text):
        fs, path = storage.open(text)
        info = info_of(fs, path)
        literal = literal_part(path, lambda folder: _is_folder(fs, folder)) if info is None else path
    glob = escaped(literal) + path[len(literal) :]
    prefix = before_wildcard(path, len(literal))
    if prefix is not None:
        try:
            glob_translate(glob)
        except ValueError as error:
            raise ConfigError(f"source.path: {storage.redact(f'{text}: {error}')}") from None
    return Place(text, fs, path, info, prefix, glob)


def overlapping_places(places: list[Place]) -> Iterator[list[Place]]:
    """Group the places whose files may stand between one another's in the order of URIs."""
    ordered = sorted({place.path: place for place in places}.values(), key=attrgetter("start"))
    group: list[Place] = []
    for place in ordered:
        if group and not place.start.startswith(group[0].start):
            yield group
            group = []
        group.append(place)
    yield group


def info_of(fs: fsspec.AbstractFileSystem, path: str) -> dict[str, Any] | None:
    """Return fsspec's info of a path, or None. Unlike `isfile` it raises if the store cannot be reached."""
    if "s3" in fs.protocol and "{" in path.partition("/")[0]:
        return None  # no bucket's name has braces, and the store would refuse to look for it
    try:
        return dict(fs.info(path))
    except (FileNotFoundError, PermissionError, NotADirectoryError):  # a folder or a glob may still be listed
        return None
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:  # as long braces are
            return None
        raise


def is_folder(uri: str, storage: Storage) -> bool:
    """Tell whether there is a folder of exactly this name."""
    return _is_folder(*storage.open(uri))


def _is_folder(fs: fsspec.AbstractFileSystem, path: str) -> bool:
    info = info_of(fs, path)
    return info is not None and info["type"] == "directory"
