"""Reads Parquet: one sample a row, its image as bytes, as `{bytes, path}` or as the path of a file."""

import functools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.sources.base import (
    MAX_IMAGE_BYTES,
    Question,
    ReadTotals,
    Sample,
    Shard,
    Source,
    Want,
    Wanted,
    files_ending,
)
from pipeline.sources.read_ahead import Read, read_ahead, with_image
from pipeline.sources.sidecars import parse_questions
from pipeline.storage.listing import File
from pipeline.storage.uris import BLOCK_BYTES, Storage
from pipeline.support.census import PassedOver
from pipeline.support.errors import BadImage, BadSample, DataFault, ShardError
from pipeline.support.fields import counted, free
from pipeline.support.memory import at_most

_IMAGE_NAMES = ("image", "images", "jpg", "jpeg", "png", "webp", "image_bytes", "bytes", "image_path", "path")
_ROWS_AT_ONCE = 16
_BYTES_AT_ONCE = 64 << 20  # fewer rows at once if they are larger, by the sizes in the footer
# Limits the memory of one batch: a page of a few bytes may inflate to 2 GiB, and every row refer to it.
_ROOM_BYTES = 1 << 30
# A file has at most this many rows for each of its bytes; a damaged footer may promise more.
_ROWS_A_BYTE = 64
# Arrow raises these for damage, and Python for values that it cannot hold, such as text that is not UTF-8.
_DAMAGE = (pa.ArrowException, OSError, ValueError, ArithmeticError, LookupError, TypeError, MemoryError)


@dataclass(frozen=True, kw_only=True)
class Parquet(Source):
    """Reads Parquet files as `datasets`, img2dataset, pandas or DuckDB write them; a file is a shard.

    Columns left null are found by their usual names: `image` and others, `question` and `questions`.
    Without `key_column`, a sample's key is its row number. Paths are relative to `image_root`, or to the
    file's folder.
    """

    image_column: str | None = counted(None)
    question_column: str | None = counted(None)
    questions_column: str | None = counted(None)
    question_id_column: str | None = counted(None)
    key_column: str | None = counted(None)
    image_root: str | None = free(None)

    def entries(self, storage: Storage) -> Iterator[File | PassedOver]:
        """See `Source.entries`."""
        return files_ending(self.path, (".parquet",), storage, follow_links=self.follow_links, of_tables=True)

    def shards(self, entries: Iterable[File], storage: Storage) -> Iterator[Shard]:
        """See `Source.shards`: a file is a shard."""
        for ordinal, file in enumerate(entries):
            yield Shard(ordinal, file.uri, file.size, file.etag)

    def samples(self, shard: Shard, storage: Storage, wanted: Wanted) -> Iterator[Sample | None]:
        """See `Source.samples`. Each row that a damaged row group lost is a sample with a fault."""
        root = self.image_root or shard.uri.rpartition("/")[0]
        return read_ahead(self._items(shard, root, storage, wanted), root, storage)

    def store_reads(self, totals: ReadTotals) -> tuple[float, float | None]:
        """See `Source.store_reads`: each file's two HEADs, footer and blocks, and images by path."""
        by_path = totals.image_bytes > totals.source_bytes  # the images are not within the table
        gets = 3 * totals.complete_shards + totals.ranges(BLOCK_BYTES)
        if not by_path:
            return totals.source_bytes, gets
        return totals.source_bytes + totals.image_bytes, gets + totals.samples

    def _items(
        self, shard: Shard, root: str, storage: Storage, wanted: Wanted
    ) -> Iterator[Read | Sample | None]:
        with self.open_shard(shard, storage) as stream:
            try:
                with at_most(_ROOM_BYTES):
                    file = pq.ParquetFile(stream, buffer_size=1 << 20, page_checksum_verification=True)
                    schema = file.schema_arrow
            except _DAMAGE as error:
                _reraise_outage(error)
                raise ShardError(f"the Parquet file cannot be opened: {_line(error)}") from None
            columns = self._columns(schema)
            image = {"image": columns.pop("image")}
            index, total = 0, max(_row_count(file.metadata, shard.size), 1)
            for group in range(file.num_row_groups):
                texts, images = _Rows(file, group, columns), _Rows(file, group, image)
                for row in range(file.metadata.row_group(group).num_rows):
                    want = wanted(index)
                    bare = Sample(str(index), shard.size * (index + 1) // total)
                    wanted_images = images if want == Want.ALL else None
                    where = (root, storage, self.follow_links)
                    yield _sample(bare, row, texts, wanted_images, *where) if want else None
                    index += 1

    def _columns(self, schema: pa.Schema) -> dict[str, str]:
        """Map each role to its column. Raises ShardError if the file lacks a column that the user named."""
        names: dict[str, str | None] = {
            "image": self.image_column or next((name for name in _IMAGE_NAMES if name in schema.names), None),
            "question": self.question_column or ("question" if "question" in schema.names else None),
            "questions": self.questions_column or ("questions" if "questions" in schema.names else None),
            "question_id": self.question_id_column,
            "key": self.key_column,
        }
        if names["image"] is None:
            raise ShardError(f"no image column among {', '.join(schema.names)}; set source.image_column")
        columns = {role: name for role, name in names.items() if name is not None}
        missing = [name for name in columns.values() if name not in schema.names]
        if missing:
            raise ShardError(f"no column {missing[0]!r} among {', '.join(schema.names)}")
        return columns


def _row_count(metadata: pq.FileMetaData, size: int) -> int:
    """Count the rows of all groups. ShardError if the footer promises more than its columns hold.

    Each promised row becomes an output row, and a flipped bit may promise trillions.
    """
    rows = 0
    for group in range(metadata.num_row_groups):
        part = metadata.row_group(group)
        values = part.column(0).num_values if part.num_columns else 0  # nulls count; a list has several
        if not 0 <= part.num_rows <= min(values, _ROWS_A_BYTE * size):
            raise ShardError(f"the Parquet footer promises {part.num_rows} rows of {values} values")
        rows += part.num_rows
    if rows > _ROWS_A_BYTE * size:
        raise ShardError(f"the Parquet footer promises {rows} rows in {size} bytes")
    return rows


class _Rows:
    """Reads columns of a row group, row by row, from the first row that is asked for.

    Images have their own reader, so that damage to an image column loses no questions.
    """

    def __init__(self, file: pq.ParquetFile, group: int, columns: dict[str, str]) -> None:
        self._columns, self._group = columns, group
        names = list(columns.values())
        part = file.metadata.row_group(group)
        rows_at_once = _BYTES_AT_ONCE * part.num_rows // max(part.total_byte_size, 1)
        reading = {"row_groups": [group], "columns": names, "use_threads": False}
        self._batches = (
            file.iter_batches(max(1, min(_ROWS_AT_ONCE, rows_at_once)), **reading) if names else None
        )
        self._batch: pa.RecordBatch | None = None
        self._read = 0  # rows of the group up to the end of the current batch
        self._fault: DataFault | None = None

    def row(self, number: int) -> dict[str, object]:
        """Return a row's values by their roles; BadSample if it cannot be read."""
        if self._batches is None:
            return {}
        while self._fault is None and number >= self._read:
            try:
                self._batch = None  # frees it before the next one is read
                with at_most(_ROOM_BYTES):
                    self._batch = next(self._batches)
                self._read += self._batch.num_rows
            except (*_DAMAGE, StopIteration) as error:
                _reraise_outage(error)
                self._fault = BadSample(
                    f"row group {self._group} cannot be read from row {self._read} on: {_line(error)}"
                )
        if self._batch is None or number >= self._read:
            assert self._fault is not None
            raise self._fault
        # the batch ends with row `self._read - 1`
        row = _row(self._batch, self._batch.num_rows - self._read + number)
        return {role: row[name] for role, name in self._columns.items()}


def _row(batch: pa.RecordBatch, index: int) -> dict[str, object]:
    try:
        with at_most(_ROOM_BYTES):
            return dict(batch.slice(index, 1).to_pylist()[0])
    except _DAMAGE as error:
        raise BadSample(f"the row cannot be read: {_line(error)}") from None


def _sample(
    bare: Sample,
    row: int,
    texts: _Rows,
    images: _Rows | None,
    root: str,
    storage: Storage,
    follow_links: bool,
) -> Read | Sample:
    """Make a sample of a row, or its `Read` if the image is a file; `images` None: unwanted."""
    sample = bare
    try:
        values = texts.row(row)
        if values.get("key") is not None:
            sample = replace(sample, key=str(values["key"]))
        sample = replace(sample, questions=_questions(values))
        image = b"" if images is None else _image(images.row(row)["image"])
    except DataFault as fault:
        return replace(sample, fault=fault)
    if isinstance(image, bytes):
        return replace(sample, image=image)
    return functools.partial(with_image, sample, root, image, storage, follow_links=follow_links)


def _questions(values: dict[str, object]) -> tuple[Question, ...]:
    if values.get("questions") is not None:
        return parse_questions(values["questions"])
    if values.get("question") is not None:
        name = values.get("question_id")
        return parse_questions([{"question": values["question"], "question_id": name}])
    return ()


def _image(value: object) -> bytes | str:
    """Return an image's bytes, or the path of its file."""
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if isinstance(value, dict):
        value = value.get("bytes") or value.get("path")
    if isinstance(value, bytes) and len(value) > MAX_IMAGE_BYTES:
        raise BadImage(f"the image is too large: {len(value)} bytes")
    if isinstance(value, bytes | str):
        return value
    if value is None:
        raise BadSample("the row has no image")
    raise BadSample(f"the image column holds neither bytes nor a path, but {type(value).__name__}")


def _reraise_outage(error: BaseException) -> None:
    """Raise an error of the store again: a subclass of OSError. Arrow reports damage as a plain OSError."""
    if isinstance(error, OSError) and type(error) is not OSError and not isinstance(error, pa.ArrowException):
        raise error


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
