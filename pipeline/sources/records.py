"""Reads records of a text file between two byte offsets: JSON lines, an array's elements, or CSV rows."""

import codecs
import csv
import io
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import BinaryIO, cast

from pipeline.sources.questions import MAX_SIDECAR_BYTES, decode_text, parse_object
from pipeline.storage.uris import Storage
from pipeline.support.errors import BadSample, ConfigError, DataFault, ShardError

MAX_RECORD_BYTES = 64 << 20  # with an image in base64
_MOST_PARTS = 50_000  # of a record that is longer than a sidecar may be
_HEAD_BYTES = 1 << 20
_PARTS = re.compile(rb"[,:\[{]")
_GAP = re.compile(r"[ \t\r\n,]*")
_ARRAY = re.compile(rb"(?:\xef\xbb\xbf)?\s*\[\s*(?=[{\]])")
_OBJECT = re.compile(r"\s*(?=\{)")
_MOST_ROW_LINES = 1000  # of a CSV; in more, a quote is not closed
_DELIMITERS = {".csv": ",", ".tsv": "\t"}
CSV_SUFFIXES = tuple(_DELIMITERS)
JSON_SUFFIXES = (".jsonl", ".ndjson", ".json")

# Opens the file; takes fsspec's options for other stores than the local disk.
Opening = Callable[..., BinaryIO]


@dataclass(frozen=True)
class Record:
    """Holds one record: its object or its fault; `stop` is the byte offset of its end, `number` from 1."""

    number: int
    stop: int
    tree: dict[str, object] | None = None
    fault: DataFault | None = None


def require_records(opening: Opening, uri: str, storage: Storage) -> None:
    """Raise ConfigError if a file is none of the layouts that are read, which its first bytes tell."""
    head = _head(opening)
    reason = None
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        reason = "is UTF-16: convert it to UTF-8"
    elif _delimiter(uri) is None and not _ARRAY.match(head) and _is_one_object(head):
        reason = "is one JSON object over several lines: one object a line, or an array of objects, is read"
    if reason:
        raise ConfigError(f"source.path: {storage.redact(uri)} {reason}")


def read_records(opening: Opening, uri: str, first: int, stop: int) -> Iterator[Record]:
    """Yield the records between two byte offsets, which are 0 or ends of records; blank ones are skipped.

    Args:
        uri: of the file that `opening` opens; its suffix tells a CSV.

    Raises:
        ShardError: what follows cannot be told apart into records.
    """
    delimiter = _delimiter(uri)
    with opening() as file:
        stream = io.BufferedReader(
            cast(io.RawIOBase, file), 1 << 20
        )  # an S3 file's `readline` takes no limit
        head = stream.peek(_HEAD_BYTES) if first == 0 else _head(opening)
        stream.seek(first)
        if delimiter is not None:
            yield from _rows(stream, first, stop, delimiter, None if first == 0 else head)
        elif array := _ARRAY.match(head):
            yield from _parsed(_elements(stream, max(first, array.end()), stop))
        else:
            yield from _parsed(_lines(stream, first, stop))


def _head(opening: Opening) -> bytes:
    with opening(block_size=_HEAD_BYTES) as file:
        return file.read(_HEAD_BYTES)


def _delimiter(uri: str) -> str | None:
    return _DELIMITERS.get(uri[uri.rfind(".") :].lower())


def _is_one_object(head: bytes) -> bool:
    """Tell whether a file begins with an object that goes on behind its first line."""
    text = head.decode("latin-1").removeprefix("\xef\xbb\xbf")
    start = _OBJECT.match(text)
    if start is None:
        return False
    line = text[start.end() :].partition("\n")[0]
    try:
        json.loads(line)
    except RecursionError:
        return False
    except ValueError:
        return line.strip() == "{" or _end_of_value(text, start.end()) is not None
    return False


def _end_of_value(text: str, start: int) -> int | None:
    """Return where a JSON value ends; None if it is damaged or goes on. Bytes as Latin-1 do, too."""
    try:
        return json.JSONDecoder().raw_decode(text, start)[1]
    except (ValueError, RecursionError):
        return None


def _parsed(records: Iterator[tuple[int, int, bytes]]) -> Iterator[Record]:
    """Parse JSON records that each come with their number and the offset of their end."""
    for number, stop, data in records:
        try:
            if is_too_long(data):
                raise BadSample(f"the line is too long: more than {MAX_SIDECAR_BYTES} bytes")
            yield Record(number, stop, parse_object(data, "line"))
        except DataFault as fault:
            yield Record(number, stop, fault=fault)


def is_too_long(data: bytes) -> bool:
    """Tell whether parsing would take too much memory: a long record may hold little beside one long text."""
    if len(data) <= MAX_SIDECAR_BYTES:
        return False
    parts = _PARTS.finditer(data)
    return len(data) > MAX_RECORD_BYTES or any(count > _MOST_PARTS for count, _ in enumerate(parts))


def _lines(stream: BinaryIO, first: int, stop: int) -> Iterator[tuple[int, int, bytes]]:
    """Yield the lines that are not blank."""
    position, number = first, 0
    while position < stop and (text := stream.readline(MAX_RECORD_BYTES + 1)):
        position += len(text) + _rest_of_line(stream, text)
        number += 1
        if text.strip():
            yield number, position, text


def _rest_of_line(stream: BinaryIO, text: bytes) -> int:
    """Skip the rest of a line that `text` begins; returns its bytes."""
    size = 0
    while len(text) > MAX_RECORD_BYTES and not text.endswith(b"\n"):
        text = stream.readline(MAX_RECORD_BYTES + 1)
        size += len(text)
    return size


class _Array:
    """Reads the elements of a JSON array one after another; a byte of the file is one character."""

    def __init__(self, stream: BinaryIO, first: int) -> None:
        stream.seek(first)
        self._stream, self._start = stream, first  # `_start`: offset of the text's first character
        self._text, self._at = "", 0

    @property
    def position(self) -> int:
        """The offset of the next character."""
        return self._start + self._at

    def skip_gap(self) -> str:
        """Go on to the next element or the array's end; returns its first character, "" if there is none."""
        while True:
            gap = _GAP.match(self._text, self._at)
            assert gap is not None, "it matches the empty text"
            self._at = gap.end()
            if self._at < len(self._text) or not self._read_more():
                return self._text[self._at : self._at + 1]

    def element(self) -> bytes:
        """Read the element that begins here; ShardError if it is damaged or too long."""
        while True:
            end = _end_of_value(self._text, self._at)
            if end is not None and end < len(self._text):  # a number may go on
                data = self._text[self._at : end].encode("latin-1")
                self._at = end
                return data
            if is_too_long(self._text[self._at :].encode("latin-1")) or not self._read_more():
                raise ShardError(
                    f"the JSON array breaks off: its element at byte {self.position} is damaged or too long"
                )

    def require_end(self) -> None:
        """Raise ShardError if something follows the array's bracket."""
        self._at += 1
        while True:
            if self._text[self._at :].strip():
                raise ShardError(f"something follows the end of the JSON array at byte {self.position}")
            self._at = len(self._text)
            if not self._read_more():
                return

    def _read_more(self) -> bool:
        rest = self._text[self._at :]
        more = self._stream.read(max(len(rest), _HEAD_BYTES))
        self._start, self._at, self._text = self._start + self._at, 0, rest + more.decode("latin-1")
        return bool(more)


def _elements(stream: BinaryIO, first: int, stop: int) -> Iterator[tuple[int, int, bytes]]:
    """Yield the elements of a JSON array, from behind its bracket or behind an element."""
    array, number = _Array(stream, first), 0
    while (character := array.skip_gap()) and array.position < stop:
        if character == "]":
            array.require_end()
            return
        number += 1
        data = array.element()
        yield number, array.position, data
    if not character:
        raise ShardError(f"the JSON array breaks off at byte {array.position}: it has no end")


def _rows(stream: BinaryIO, first: int, stop: int, delimiter: str, head: bytes | None) -> Iterator[Record]:
    """Yield the rows of a CSV as objects by the names in its first row, which `head` has beyond it.

    An empty cell is absent. A row that is no CSV, such as one with a quote that is not closed, is a fault,
    and the next line begins another row.
    """
    csv.field_size_limit(MAX_RECORD_BYTES)
    rows = _CsvRows(stream, first, stop, delimiter)
    beginning = rows if head is None else _CsvRows(io.BytesIO(head), 0, len(head), delimiter)
    names = _names(beginning)
    for number, cells in enumerate(rows, 1):
        if isinstance(cells, DataFault):
            yield Record(number, rows.position, fault=cells)
        elif len(cells) > len(names):
            fault = BadSample(f"the row has {len(cells)} cells, and the first row {len(names)}")
            yield Record(number, rows.position, fault=fault)
        elif cells:
            tree: dict[str, object] = {name: cell for name, cell in zip(names, cells, strict=False) if cell}
            yield Record(number, rows.position, tree)


def _names(rows: Iterator[list[str] | DataFault]) -> list[str]:
    """Read the names of the columns from the first row that is not blank."""
    names = next((row for row in rows if row), [])
    if isinstance(names, DataFault) or not all(map(str.isprintable, names)):
        reason = names if isinstance(names, DataFault) else "it is no text"
        raise ShardError(f"the first row does not name the columns: {reason}")
    if twice := [name for name, times in Counter(names).items() if times > 1]:
        raise ShardError(f"two columns have the name {twice[0]!r}")
    return names


class _CsvRows:
    """Reads rows through csv's reader, which takes as many lines as a row has; `position` is their end."""

    def __init__(self, stream: BinaryIO, first: int, stop: int, delimiter: str) -> None:
        self._stream, self._stop, self._delimiter = stream, stop, delimiter
        self.position = first
        stream.seek(first)

    def __iter__(self) -> Iterator[list[str] | DataFault]:
        return self

    def __next__(self) -> list[str] | DataFault:
        """Read a row, [] if it is blank, or why it is none; then the row ends with its first line."""
        start, lines = self.position, self._lines()
        try:
            row = next(csv.reader(lines, delimiter=self._delimiter, strict=True))
        except csv.Error as error:
            self.position = start
            self._stream.seek(start)
            next(self._lines())
            return BadSample(f"the row is no CSV: {error}")
        return row

    def _lines(self) -> Iterator[str]:
        for _ in range(_MOST_ROW_LINES):
            size = MAX_RECORD_BYTES + 1
            data = self._stream.readline(size) if self.position < self._stop else b""
            if not data:
                return
            self.position += len(data)
            if len(data) == size:
                raise ShardError(f"the line that ends behind byte {self.position} is too long")
            yield _decoded(data)


def _decoded(data: bytes) -> str:
    try:
        return decode_text(data)
    except UnicodeDecodeError:
        return data.decode("latin-1")
