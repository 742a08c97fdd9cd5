"""Finds, in the rows of a table of files, their URIs, sizes and etags."""

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any  # values of a table's cells

from pipeline.storage.external_sort import Line
from pipeline.storage.names import as_text
from pipeline.storage.uris import Storage, canonical
from pipeline.support.errors import ConfigError

_URIS = ("uri", "url", "path")  # the first that there is counts
_OTHERS = ("size", "etag", "islatest", "isdeletemarker")
_WHOLE = re.compile(r"(\d{1,18})(?:\.0+)?")


@dataclass(frozen=True)
class FileColumns:
    """Says in which places a row has a file's name, size and the rest.

    Args:
        table: its URI, for messages.
        places: of what a listing needs, by its plain name: `key` with `bucket`, or `uri`; `size`; and if
            there are any `etag`, `islatest` and `isdeletemarker`.
        names: the columns as the table calls them.
    """

    table: str
    storage: Storage
    places: Mapping[str, int]
    names: tuple[str, ...]

    def lines(
        self, rows: Iterable[Sequence[Any]], first: int, decode: Callable[[str], str] | None = None
    ) -> Iterator[Line]:
        """Yield URI, size and etag of each row that is the latest version of a file.

        Args:
            first: the number of the first row, for messages.
            decode: decodes keys.
        """
        latest, deleted = self.places.get("islatest"), self.places.get("isdeletemarker")
        size, etag = self.places["size"], self.places.get("etag")
        uri_of = self._uri_of(decode)
        for number, row in enumerate(rows, first):
            if len(row) != len(self.names):
                raise self._fault(number, f"it has {len(row)} of {len(self.names)} columns")
            if deleted is not None and self._flag(number, deleted, row[deleted], default=False):
                continue
            if latest is not None and not self._flag(number, latest, row[latest], default=True):
                continue
            uri = uri_of(number, row)
            if not uri.endswith("/"):  # such names mark folders
                digest = None if etag is None or uri.startswith("file:") else row[etag]  # a disk has none
                yield uri, self._size(number, row[size]), str(digest or "").strip('"')

    def _uri_of(self, decode: Callable[[str], str] | None) -> Callable[[int, Sequence[Any]], str]:
        """Return a function of a row and its number that makes the file's canonical URI."""
        if "uri" in self.places:
            uri = self.places["uri"]
            return lambda number, row: self._canonical(number, row[uri])
        key, bucket = self.places["key"], self.places["bucket"]

        def joined(number: int, row: Sequence[Any]) -> str:
            name, folder = row[key], row[bucket]
            if not (isinstance(name, str) and isinstance(folder, str) and name and folder):
                names = f"columns {self.names[bucket]} and {self.names[key]}"
                raise self._fault(number, f"{names}: {folder!r} and {name!r} name no object")
            return f"s3://{folder}/{decode(name) if decode is not None else name}"

        return joined

    def _canonical(self, number: int, uri: Any) -> str:
        if isinstance(uri, str):
            if uri.startswith("s3://"):
                return uri
            if uri.startswith("s3a://"):
                return f"s3://{uri[6:]}"
            if uri.startswith(("/", "file://")):
                path = os.path.normpath(uri.removeprefix("file://"))
                return as_text(f"file://{path}") + "/" * uri.endswith("/")
            if "://" in uri:
                return canonical(uri, self.storage)
        name = self.names[self.places["uri"]]
        raise self._fault(number, f"column {name}: {uri!r} is neither a URI nor an absolute path")

    def _flag(self, number: int, place: int, value: Any, *, default: bool) -> bool:
        """Read true or false, which pandas may write as 1.0 and 0.0; an empty value is the default."""
        text = str("" if value is None else value).strip().lower().removesuffix(".0")
        if text in ("", "true", "false", "1", "0"):
            return text in ("true", "1") if text else default
        raise self._fault(number, f"column {self.names[place]}: {value!r} is neither true nor false")

    def _size(self, number: int, size: Any) -> int:
        if type(size) is int and size >= 0:
            return size
        if isinstance(size, float | str) and (match := _WHOLE.fullmatch(str(size))):
            return int(match[1])
        name = self.names[self.places["size"]]
        raise self._fault(number, f"column {name}: {size!r} is no number of bytes")

    def _fault(self, number: int, text: str) -> ConfigError:
        text = self.storage.redact(f"{self.table}, row {number}: {text}")
        return ConfigError(f"source.listing: {text[:500]}")


def find_columns(names: Sequence[str], table: str, storage: Storage) -> FileColumns:
    """Find the columns of a table by their names, in any letter case, with or without `_`.

    Raises:
        ConfigError: it does not name files, or not their sizes.
    """
    found: dict[str, int] = {}
    for place, name in enumerate(names):
        found.setdefault(re.sub(r"[^a-z0-9]", "", name.lower()), place)
    places = {name: found[name] for name in _OTHERS if name in found}
    if "key" in found and "bucket" in found:
        places |= {"key": found["key"], "bucket": found["bucket"]}
    elif name_of_uri := next((name for name in _URIS if name in found), None):
        places["uri"] = found[name_of_uri]
    else:
        raise _lacking("uri, url, path, or key with bucket", names, table, storage)
    if "size" not in places:
        raise _lacking("size", names, table, storage)
    return FileColumns(table, storage, places, tuple(names))


def _lacking(column: str, names: Sequence[str], table: str, storage: Storage) -> ConfigError:
    text = storage.redact(f"{table} has no column {column}; it has {', '.join(names) or 'none'}")
    return ConfigError(f"source.listing: {text[:500]}")
