"""Reads a dataset's official files as streams, and names a file that is missing or damaged."""

import csv
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO, TextIO, cast

from pipeline.sources.base import MAX_IMAGE_BYTES
from pipeline.storage.uris import Storage
from pipeline.support.errors import ConfigError

Json = Any  # JSON whose form each dataset knows; `official_file` turns a wrong form into ConfigError


@contextmanager
def official_file(root: str, name: str, storage: Storage) -> Iterator[str]:
    """Yield the URI of a file below `root`; any error in the block becomes a ConfigError naming it."""
    import ijson

    uri = f"{root.rstrip('/')}/{name}"
    shown = storage.redact(uri)
    try:
        with storage.reaching("dataset.root", uri):
            yield uri
    except (ijson.JSONError, ValueError, csv.Error) as error:
        raise ConfigError(f"{shown}: {' '.join(str(error).split())[:200]}") from None
    except KeyError as error:
        raise ConfigError(f"{shown}: an entry lacks {error}") from None
    except (TypeError, AttributeError, IndexError) as error:
        raise ConfigError(f"{shown} is not of the official form: {str(error)[:200]}") from None


def json_items(root: str, name: str, path: str, storage: Storage) -> Iterator[Json]:
    """Read the items of a JSON file's list at `path` (in ijson's syntax), one in memory at a time."""
    import ijson

    with official_file(root, name, storage) as uri, _open_binary(uri, storage) as file:
        yield from ijson.items(file, path, use_float=True)


def json_pairs(root: str, name: str, path: str, storage: Storage) -> Iterator[tuple[str, Json]]:
    """Read the keys and values of the object at `path` of a JSON file, one in memory at a time."""
    import ijson

    with official_file(root, name, storage) as uri, _open_binary(uri, storage) as file:
        yield from ijson.kvitems(file, path, use_float=True)


def jsonl_items(root: str, name: str, storage: Storage) -> Iterator[dict[str, Json]]:
    """Read the objects of a JSONL file; blank lines are skipped."""
    with official_file(root, name, storage) as uri, open_text(uri, storage) as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                try:
                    item = json.loads(line)
                except ValueError as error:
                    raise ValueError(f"line {number}: {error}") from None
                if not isinstance(item, dict):
                    raise ValueError(f"line {number} is no JSON object")
                yield item


def table_rows(root: str, name: str, storage: Storage) -> Iterator[dict[str, str]]:
    """Read the rows of a TSV file by their column names; a cell may hold an image."""
    csv.field_size_limit(2 * MAX_IMAGE_BYTES)
    with official_file(root, name, storage) as uri, open_text(uri, storage) as file:
        yield from csv.DictReader(file, delimiter="\t")


def open_text(uri: str, storage: Storage) -> TextIO:
    """Open a text file: UTF-8 with or without its byte order mark, line breaks unchanged."""
    fs, path = storage.open(uri)
    return cast(TextIO, fs.open(path, "r", encoding="utf-8-sig", newline=""))


def _open_binary(uri: str, storage: Storage) -> BinaryIO:
    fs, path = storage.open(uri)
    return cast(BinaryIO, fs.open(path, "rb"))
