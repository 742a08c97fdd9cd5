"""Reads the rows of a Parquet file, within bounds of memory, and says what cannot be read."""

from collections.abc import Mapping
from typing import BinaryIO, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.sources.arrow_bounds import require_small
from pipeline.sources.base import MAX_IMAGE_BYTES
from pipeline.sources.questions import MAX_QUESTION_CHARACTERS, MAX_QUESTIONS
from pipeline.support.errors import BadSample, DataFault, ShardError
from pipeline.support.memory import at_most

_ROWS_AT_ONCE = 16
_BYTES_AT_ONCE = 64 << 20  # fewer rows at once if they are larger, by the sizes in the footer
# Limits the memory of one batch: a page of a few bytes may inflate to 2 GiB, and every row refer to it.
_ROOM_BYTES = 1 << 30
# A file has at most this many rows for each of its bytes; a damaged footer may promise more.
_ROWS_A_BYTE = 64
# Arrow raises these for damage, and Python for values that it cannot hold, such as text that is not UTF-8.
_DAMAGE = (pa.ArrowException, OSError, ValueError, ArithmeticError, LookupError, TypeError, MemoryError)
_MOST_BESIDE = 100_000  # values in lists within a struct, such as boxes beside an image's bytes
_MAX_KEY_BYTES = 4 << 10  # of a key, which each row of the sample repeats


class _Limits(NamedTuple):
    """Limits a cell: `items` of its lists and `bytes` of its texts."""

    items: int
    bytes: int


_LIMITS = {
    "image": _Limits(_MOST_BESIDE, MAX_IMAGE_BYTES // 3 * 4 + 1024),  # perhaps in base64
    "question": _Limits(_MOST_BESIDE, 4 * MAX_QUESTION_CHARACTERS),
    "questions": _Limits(MAX_QUESTIONS + _MOST_BESIDE, 4 * MAX_QUESTION_CHARACTERS),
    "question_id": _Limits(_MOST_BESIDE, _MAX_KEY_BYTES),
    "key": _Limits(_MOST_BESIDE, _MAX_KEY_BYTES),
}
_OTHERS = _Limits(100_000, 16 << 20)


def open_parquet(stream: BinaryIO) -> tuple[pq.ParquetFile, pa.Schema]:
    """Open a file; ShardError if it is damaged."""
    try:
        with at_most(_ROOM_BYTES):
            file = pq.ParquetFile(stream, buffer_size=1 << 20, page_checksum_verification=True)
            return file, file.schema_arrow
    except _DAMAGE as error:
        _reraise_outage(error)
        raise ShardError(f"the Parquet file cannot be opened: {_line(error)}") from None


def row_count(metadata: pq.FileMetaData, size: int) -> int:
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


class Rows:
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
        self._is_small = False  # whether no row of the batch can be too large
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
                    self._is_small = _fits(self._batch, self._columns)
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
        return self._values(self._batch, self._batch.num_rows - self._read + number)

    def _values(self, batch: pa.RecordBatch, index: int) -> dict[str, object]:
        """Make Python values of a row's cells, by their roles, once they are known to be small enough."""
        try:
            if self._is_small:
                return _to_python(batch, index, self._columns)
            with at_most(_ROOM_BYTES):
                row = batch.slice(index, 1)
                _require_small(row, self._columns, rows=1)
                return _to_python(row, 0, self._columns)
        except _DAMAGE as error:
            raise BadSample(f"the row cannot be read: {_line(error)}") from None


def _fits(batch: pa.RecordBatch, columns: Mapping[str, str]) -> bool:
    """Tell whether all rows of a batch together hold no more text than one row may."""
    try:
        _require_small(batch, columns, rows=batch.num_rows)
    except (*_DAMAGE, BadSample):
        return False
    return True


def _require_small(batch: pa.RecordBatch, columns: Mapping[str, str], *, rows: int) -> None:
    """Raise BadSample if a column holds more text than one row may, or longer lists than `rows` rows may."""
    for role, name in columns.items():
        if role == "image" and rows == 1:
            _require_one_image(batch[name])
        items, size = _LIMITS.get(role, _OTHERS)
        require_small(batch[name], name, most_items=items * rows, most_bytes=size)


def _to_python(batch: pa.RecordBatch, index: int, columns: Mapping[str, str]) -> dict[str, object]:
    return {role: batch[name][index].as_py() for role, name in columns.items()}


def _require_one_image(cell: pa.Array) -> None:
    if pa.types.is_nested(cell.type) and not pa.types.is_struct(cell.type) and not pa.types.is_map(cell.type):
        count = pc.list_value_length(cell)[0].as_py()
        if count is not None and count > 1:
            raise BadSample(f"the row has {count} images")


def _reraise_outage(error: BaseException) -> None:
    """Raise an error of the store again: a subclass of OSError. Arrow reports damage as a plain OSError."""
    if isinstance(error, OSError) and type(error) is not OSError and not isinstance(error, pa.ArrowException):
        raise error


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
