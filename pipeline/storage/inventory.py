"""Reads names and sizes of files from a table instead of asking the store: an S3 Inventory, or any table.

A manifest.json is an S3 Inventory's, https://docs.aws.amazon.com/AmazonS3/latest/userguide/storage-inventory.html.
Any other table has a column of URIs, or of keys and buckets, and one of sizes.
"""

import csv
import gzip
import io
import json
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import BinaryIO, cast
from urllib.parse import unquote_plus

from fsspec.implementations.local import LocalFileSystem

from pipeline.storage.external_sort import Line
from pipeline.storage.inventory_rows import find_columns
from pipeline.storage.places import info_of
from pipeline.storage.uris import Storage
from pipeline.support.errors import ConfigError

_BATCH_ROWS = 10_000
_FORMS = ".parquet, .csv, .tsv, .jsonl (also with .gz), or an S3 Inventory's manifest.json"
_MOST_MANIFEST_BYTES = 64 << 20


def read_inventory(listing: str, storage: Storage) -> Iterator[Line]:
    """Yield URI, size and etag of every file that a table names, in its own order; etag "": it has none.

    Of a store with versions these are the latest, without those that are deleted.

    Raises:
        ConfigError: the table is missing, damaged, of another form, or lacks a column; it names the file.
    """
    if listing.endswith("manifest.json"):
        yield from _of_manifest(listing, storage)
    else:
        yield from _of_table(listing, storage)


def _of_table(uri: str, storage: Storage) -> Iterator[Line]:
    form = uri.lower().removesuffix(".gz").rpartition(".")[2]
    if form not in _READERS or uri.lower().endswith(".parquet.gz"):
        raise ConfigError(f"source.listing: {storage.redact(uri)} is none of {_FORMS}")
    with _opened(uri, storage) as stream:
        yield from _READERS[form](stream, uri, storage)


def _of_manifest(uri: str, storage: Storage) -> Iterator[Line]:
    """Yield the lines of an S3 Inventory's data files; of a CSV the manifest has the columns."""
    with _opened(uri, storage) as stream:
        manifest = json.loads(stream.read(_MOST_MANIFEST_BYTES))
    try:
        form, schema = manifest["fileFormat"], str(manifest["fileSchema"])
        bucket = manifest["destinationBucket"].rpartition(":::")[2]
        files = [(str(file["key"]), int(file["size"])) for file in manifest["files"]]
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        text = storage.redact(f"{uri} is no manifest of an S3 Inventory: {type(error).__name__}: {error}")
        raise ConfigError(f"source.listing: {text}") from None
    if form not in ("CSV", "Parquet"):
        raise ConfigError(f"source.listing: {storage.redact(uri)}: {form} is not read; CSV and Parquet are")
    for key, size in files:
        data = _data_file(uri, bucket, key, storage)
        with _opened(data, storage, size) as stream:
            if form == "Parquet":
                yield from _of_parquet(stream, data, storage)
            else:
                columns = find_columns([name.strip() for name in schema.split(",")], data, storage)
                yield from columns.lines(_csv_rows(stream, ","), 1, unquote_plus)


def _data_file(manifest: str, bucket: str, key: str, storage: Storage) -> str:
    """Return where a manifest's data file lies; of a local copy it is beside the manifest, or in ../data."""
    fs, path = storage.open(manifest)
    if not isinstance(fs, LocalFileSystem):
        return f"s3://{bucket}/{key}"
    folder, name = Path(path).parent, Path(key).name
    places = [folder / name, folder / "data" / name, folder.parent / "data" / name]
    return str(next((place for place in places if place.exists()), places[-1]))


@contextmanager
def _opened(uri: str, storage: Storage, size: int | None = None) -> Iterator[BinaryIO]:
    """Open a file, unpacked; what fails in reading it becomes a ConfigError that names it.

    Args:
        size: how many bytes it must have.
    """
    import pyarrow as pa

    shown = storage.redact(uri)
    with storage.reaching("source.listing", uri):
        fs, path = storage.open(uri)
        info = info_of(fs, path)
        if info is not None and size is not None and info["size"] != size:
            raise ConfigError(
                f"source.listing: {shown} has {info['size']} bytes where its manifest says {size}"
            )
        try:
            with fs.open(path, "rb") as file:
                yield cast(BinaryIO, gzip.GzipFile(fileobj=file) if uri.lower().endswith(".gz") else file)
        except (pa.ArrowException, csv.Error, EOFError, zlib.error, gzip.BadGzipFile, ValueError) as error:
            text = storage.redact(str(error) or type(error).__name__)[:300]
            raise ConfigError(f"source.listing: {shown} cannot be read: {text}") from None


def _of_parquet(stream: BinaryIO, uri: str, storage: Storage) -> Iterator[Line]:
    import pyarrow.parquet as pq

    table = pq.ParquetFile(stream)
    names = table.schema_arrow.names
    columns = find_columns(names, uri, storage)
    used = [names[place] for place in sorted(columns.places.values())]
    columns = find_columns([name for name in used if name in used], uri, storage)
    first = 1
    for batch in table.iter_batches(_BATCH_ROWS, columns=list(columns.names)):
        cells = batch.to_pydict()
        rows = zip(*(cells[name] for name in columns.names), strict=True)
        yield from columns.lines(rows, first)
        first += batch.num_rows


def _of_csv(stream: BinaryIO, uri: str, storage: Storage, delimiter: str = ",") -> Iterator[Line]:
    rows = _csv_rows(stream, delimiter)
    header = next(rows, [])
    yield from find_columns(header, uri, storage).lines(rows, 1)


def _csv_rows(stream: BinaryIO, delimiter: str) -> Iterator[list[str]]:
    text = io.TextIOWrapper(stream, "utf-8-sig", newline="")
    return filter(None, csv.reader(text, delimiter=delimiter, strict=True))


def _of_json_lines(stream: BinaryIO, uri: str, storage: Storage) -> Iterator[Line]:
    columns = None
    for number, text in enumerate(stream, 1):
        if not text.strip():
            continue
        row = json.loads(text)
        if not isinstance(row, dict):
            raise ConfigError(f"source.listing: {storage.redact(uri)}, row {number}: it is no object")
        if columns is None or tuple(row) != columns.names:
            columns = find_columns(list(row), uri, storage)
        yield from columns.lines([list(row.values())], number)


_READERS: dict[str, Callable[[BinaryIO, str, Storage], Iterator[Line]]] = {
    "parquet": _of_parquet,
    "csv": _of_csv,
    "tsv": partial(_of_csv, delimiter="\t"),
    "jsonl": _of_json_lines,
    "ndjson": _of_json_lines,
}
