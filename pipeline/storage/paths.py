"""Says which places a source's `path` names: one path or a list of them, each with braces and wildcards."""

import json
import os
import re
from collections.abc import Callable, Iterator
from functools import lru_cache
from itertools import chain, islice
from pathlib import Path

from fsspec.implementations.local import LocalFileSystem

from pipeline.storage.names import as_text
from pipeline.storage.uris import Storage, canonical
from pipeline.support.errors import ConfigError

MOST_PATHS = 100_000
_WILDCARD = re.compile(r"[*?\[]")
_PATTERN = re.compile(r"[*?\[{]")
# What names no place, and would be read as the working directory or as all buckets.
_NOWHERE = re.compile(r"(?:(?:file|local):(?://)?|s3a?:///*)?")
_NUMBERS = re.compile(r"(-?\d+)\.\.(-?\d+)(?:\.\.(-?\d+))?")
_LETTERS = re.compile(r"([A-Za-z])\.\.([A-Za-z])(?:\.\.(-?\d+))?")

# One path or a list, as OmegaConf gives it.
SourcePath = str | list[str]


def parts_of(path: object) -> tuple[str, ...]:
    """Return the paths of a `source.path` in their order, each once.

    Raises:
        ConfigError: it is neither text nor a list of texts, or one of them names nothing.
    """
    items = list(path) if isinstance(path, list | tuple) else [path]
    for item in items:
        if isinstance(item, bool) or not isinstance(item, str | int | float):
            raise ConfigError(f"source.path: {item!r} is no path; give one path or a list of paths")
    if not items:
        raise ConfigError("source.path: the list is empty")
    return tuple(dict.fromkeys(_named(str(item)) for item in items))


def _named(path: str) -> str:
    """Return a path; ConfigError if it is empty or only a protocol, or if no file can have it."""
    if "\0" in path:
        raise ConfigError(f"source.path: {path!r} holds a NUL character, which no path can")
    if _NOWHERE.fullmatch(path):
        thing = "bucket" if path.startswith("s3") else "file or folder"
        raise ConfigError(f"source.path: {path!r} names no {thing}")
    return path


def source_text(path: object, storage: Storage) -> str:
    """Return what the plan keeps of a `source.path`: its canonical URI; of a list, JSON of all."""
    parts = [canonical(part, storage) for part in parts_of(path)]
    return parts[0] if len(parts) == 1 else json.dumps(parts)


def path_of_text(text: str) -> SourcePath:
    """Return the path that `source_text` wrote."""
    return list(map(str, json.loads(text))) if text.startswith("[") else text


def joined_texts(text: str, other: str) -> str:
    """Return the text of the paths of both."""
    parts = dict.fromkeys((*parts_of(path_of_text(text)), *parts_of(path_of_text(other))))
    return text if len(parts) == 1 else json.dumps(list(parts))


def expand_braces(text: str) -> Iterator[str]:
    """Yield what the braces of a text stand for: `{a,b}`, `{000..012}`, `{0..9..3}`, `{a..e}`, nested ones.

    Other braces stand for themselves.
    """
    group = _group(text)
    if group is None:
        yield text
        return
    start, stop, alternatives = group
    for alternative in alternatives:
        for begin in expand_braces(alternative):
            for rest in expand_braces(text[stop:]):
                yield f"{text[:start]}{begin}{rest}"


def expanded(part: str, start: int = 0) -> list[str]:
    """Return what a path with braces from `start` on stands for; ConfigError if more than MOST_PATHS."""
    paths = [part[:start] + rest for rest in islice(expand_braces(part[start:]), MOST_PATHS + 1)]
    if len(paths) > MOST_PATHS:
        raise ConfigError(f"source.path: {part} stands for more than {MOST_PATHS:,} paths; use a wildcard")
    return list(map(_named, paths))


def has_braces(text: str, start: int = 0) -> bool:
    """Tell whether a text has braces, from `start` on, that stand for something."""
    return _group(text, start) is not None


def literal_part(path: str, exists: Callable[[str], bool]) -> str:
    """Return the leading folders of a path that exist by exactly these names, though they look like patterns.

    Wildcards and braces begin behind it. It ends in such a folder, or is empty.

    Args:
        exists: tells whether there is a folder of exactly this path.
    """
    literal = ""
    for end in _pattern_folders(path):
        braces = _group(path, len(literal))
        crosses = braces is not None and braces[0] < end < braces[1]
        if crosses or not exists(path[:end]):
            break
        literal = path[:end]
    return literal


def _pattern_folders(path: str) -> Iterator[int]:
    """Yield where those folders of a path end whose names look like patterns."""
    start = 0
    while (end := path.find("/", start)) >= 0:
        if _PATTERN.search(path, start, end):
            yield end
        start = end + 1


def escaped(literal: str) -> str:
    """Return the pattern that matches a path by its name alone."""
    return _WILDCARD.sub(r"[\g<0>]", literal)


def before_wildcard(path: str, start: int = 0) -> str | None:
    """Return the part of a path or URI before its first wildcard from `start` on; None if there is none."""
    wildcard = _WILDCARD.search(path, start)
    return path[: wildcard.start()] if wildcard else None


def fixed_part(uri: str, start: int = 0) -> str:
    """Return the folder above the first wildcard or braces from `start` on; without any, the path itself."""
    group, prefix = _group(uri, start), before_wildcard(uri, start)
    stops = [len(prefix)] if prefix is not None else []
    stops += [group[0]] if group is not None else []
    return uri[: uri.rindex("/", 0, min(stops))] if stops else uri.rstrip("/")


def is_below(uri: str, folder: str) -> bool:
    """Tell whether a URI lies in a folder, or is it."""
    return uri == folder or uri.startswith(f"{folder.rstrip('/')}/")


def listed_root(uri: str, path: object, storage: Storage) -> str | None:
    """Return the place of a `source.path` that a listed file lies below; None if it lies below none.

    A path without wildcards and braces is a place itself, and so is each that braces stand for. Of a path
    with a wildcard it is the folder above that. Of several places the deepest counts, also of a folder that
    looks like a pattern and of what it would match.
    """
    roots = _roots(parts_of(path), storage, str(Path.cwd()))
    while uri and uri not in roots:
        uri = uri.rpartition("/")[0]
    return uri or None


def key_root(uri: str, path: object, storage: Storage) -> str:
    """Return the folder that a listed file's key is relative to, with a slash; "" if there is none.

    That is the folder of the path that lists it, or what stands before the path's wildcards and braces. A
    folder of the path that holds the file exists, so that it is no pattern, whatever it is called.
    """
    found = []
    for part, fixed in _bases(parts_of(path), storage, str(Path.cwd())):
        if is_below(uri, part):
            found.append(part)
        elif is_below(uri, fixed):
            literal = literal_part(part, lambda folder: is_below(uri, folder))
            found.append(fixed_part(part, len(literal)))
    root = max((root for root in found if is_below(uri, root)), key=len, default="")
    if not root:
        return ""
    return uri[: uri.rindex("/") + 1] if root == uri else f"{root}/"


@lru_cache(maxsize=16)
def _bases(parts: tuple[str, ...], storage: Storage, folder: str) -> tuple[tuple[str, str], ...]:
    uris = [canonical(part, storage).rstrip("/") for part in parts]
    return tuple((uri, fixed_part(uri)) for uri in uris)


@lru_cache(maxsize=16)
def _roots(parts: tuple[str, ...], storage: Storage, folder: str) -> frozenset[str]:
    roots: set[str] = set()
    for part in parts:
        uri = canonical(part, storage).rstrip("/")
        roots.add(uri)
        for place in _places(part, uri, storage):
            roots |= {fixed_part(place, literal) for literal in (0, *_pattern_folders(place))}
    return frozenset(roots)


def _places(part: str, uri: str, storage: Storage) -> Iterator[str]:
    fs, _ = storage.open(part)
    literals = (0, *_pattern_folders(uri))
    for place in chain.from_iterable(expanded(uri, literal) for literal in literals):
        path = os.path.normpath(fs._strip_protocol(place)) if isinstance(fs, LocalFileSystem) else place
        yield as_text(f"file://{path}") if isinstance(fs, LocalFileSystem) else place


def _group(text: str, start: int = 0) -> tuple[int, int, Iterator[str] | list[str]] | None:
    """Find the first braces that stand for something: where they begin and end, and what they stand for."""
    start = text.find("{", start)
    while start >= 0:
        depth, item, items = 0, start + 1, []
        for index in range(start, len(text)):
            depth += {"{": 1, "}": -1}.get(text[index], 0)
            if (depth == 1 and text[index] == ",") or depth == 0:
                items.append(text[item:index])
                item = index + 1
            if depth == 0:
                alternatives = items if len(items) > 1 else _range(items[0])
                if alternatives is not None:
                    return start, index + 1, alternatives
                break
        start = text.find("{", start + 1)
    return None


def _range(text: str) -> Iterator[str] | None:
    """Yield the items of `000..012` or `a..e`, with a step if it has one; None if the text is neither."""
    if match := _NUMBERS.fullmatch(text):
        first, last, step = match.groups()
        padded = any(re.match(r"-?0\d", number) for number in (first, last))
        width = max(len(first), len(last)) if padded else 0
        return (f"{number:0{width}d}" for number in _steps(int(first), int(last), step))
    if match := _LETTERS.fullmatch(text):
        first, last, step = match.groups()
        return (chr(number) for number in _steps(ord(first), ord(last), step))
    return None


def _steps(first: int, last: int, step: str | None) -> range:
    size = abs(int(step or 1)) or 1
    return range(first, last + 1, size) if first <= last else range(first, last - 1, -size)
