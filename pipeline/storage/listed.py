"""Selects, from the lines of an inventory, the files at the places of a path, sorted and each once."""

import re
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from fsspec.implementations.local import LocalFileSystem
from fsspec.utils import glob_translate

from pipeline.storage.external_sort import Line, in_order
from pipeline.storage.names import as_path
from pipeline.storage.places import Place
from pipeline.support.errors import ConfigError


@dataclass(frozen=True)
class _Scope:
    """Holds a place with what its files' URIs begin with, and tells which of these URIs are its files."""

    place: Place
    start: str
    holds: Callable[[str], object]


def select_lines(
    lines: Iterable[Line], places: Iterable[Place], listing: str
) -> Iterator[tuple[Line, list[Place]]]:
    """Yield the lines at some places, in the order of their URIs, each with its places, the outer first.

    Raises:
        ConfigError: two lines of one URI differ.
    """
    unique = {place.path: place for place in places}.values()
    scopes = sorted(map(_scope, unique), key=lambda scope: (scope.start, scope.place.start))
    last: Line | None = None
    ahead, around = scopes[::-1], list[_Scope]()
    for line in in_order(_beginning_with(sorted(scope.start for scope in scopes), lines)):
        uri = line[0]
        while ahead and ahead[-1].start <= uri:
            around.append(ahead.pop())
        around = [scope for scope in around if uri.startswith(scope.start)]
        holding = [scope.place for scope in around if scope.holds(uri)]
        if not holding or line == last:
            continue
        if last is not None and uri == last[0]:
            raise ConfigError(f"source.listing: {listing} lists {uri} twice, with different sizes or etags")
        last = line
        yield line, holding


def _scope(place: Place) -> _Scope:
    fs = place.fs
    if place.prefix is None:
        start = place.start.rstrip("/")
        if place.info is not None and place.info["type"] == "file":
            return _Scope(place, start, lambda uri: uri == start)
        return _Scope(place, start, lambda uri: uri == start or uri.startswith(f"{start}/"))
    matches = re.compile(glob_translate(place.glob)).match
    if isinstance(fs, LocalFileSystem):
        return _Scope(place, place.start, lambda uri: matches(as_path(uri.removeprefix("file://"))))
    if "s3" in fs.protocol:
        return _Scope(place, place.start, lambda uri: matches(uri.removeprefix("s3://")))
    return _Scope(place, place.start, lambda uri: matches(fs._strip_protocol(uri)))


def _beginning_with(starts: list[str], lines: Iterable[Line]) -> Iterator[Line]:
    """Yield the lines whose URI begins with one of some sorted texts, so that no others are sorted."""
    outermost: list[str] = []
    for start in starts:
        if not outermost or not start.startswith(outermost[-1]):
            outermost.append(start)
    for line in lines:
        place = bisect_right(outermost, line[0])
        if place and line[0].startswith(outermost[place - 1]):
            yield line
