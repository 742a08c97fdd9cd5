"""A dataset's official files: read as streams, and told by name if they are missing or damaged."""

import csv
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO

from pipeline.sources.base import MAX_IMAGE_BYTES
from pipeline.storage.uris import Storage
from pipeline.support.errors import ConfigError


@contextmanager
def telling(root: str, name: str, storage: Storage) -> Iterator[str]:
    """The URI of a file below `root`; whatever is wrong with it is a ConfigError that names it."""
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


def json_items(root: str, name: str, where: str, storage: Storage) -> Iterator[Any]:
    """The items of the list at `where` (as ijson writes paths) of a JSON file, one in memory at a time."""
    import ijson

    with telling(root, name, storage) as uri, _binary(uri, storage) as file:
        yield from ijson.items(file, where, use_float=True)


def json_pairs(root: str, name: str, where: str, storage: Storage) -> Iterator[tuple[str, Any]]:
    """The keys and values of the object at `where` of a JSON file, one in memory at a time."""
    import ijson

    with telling(root, name, storage) as uri, _binary(uri, storage) as file:
        yield from ijson.kvitems(file, where, use_float=True)


def json_lines(root: str, name: str, storage: Storage) -> Iterator[dict[str, Any]]:
    """The objects of a JSONL file; blank lines are passed over."""
    with telling(root, name, storage) as uri, text_of(uri, storage) as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                try:
                    found = json.loads(line)
                except ValueError as error:
                    raise ValueError(f"line {number}: {error}") from None
                if not isinstance(found, dict):
                    raise ValueError(f"line {number} is no JSON object")
                yield found


def table_rows(root: str, name: str, storage: Storage) -> Iterator[dict[str, str]]:
    """The rows of a TSV file by their column names; a cell may hold an image."""
    csv.field_size_limit(2 * MAX_IMAGE_BYTES)
    with telling(root, name, storage) as uri, text_of(uri, storage) as file:
        yield from csv.DictReader(file, delimiter="\t")


def text_of(uri: str, storage: Storage) -> TextIO:
    """A text file, opened: UTF-8 with or without its mark, line breaks as they are."""
    fs, path = storage.open(uri)
    opened: TextIO = fs.open(path, "r", encoding="utf-8-sig", newline="")
    return opened


def _binary(uri: str, storage: Storage) -> Any:
    fs, path = storage.open(uri)
    return fs.open(path, "rb")
