"""Reads records of a text file between two byte offsets: JSON lines, an array's elements, or CSV rows."""

import codecs
import csv
import io
import json
import re
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
_GAP = re.compile(rb"[\s,]*")
_ARRAY = re.compile(rb"(?:\xef\xbb\xbf)?\s*\[\s*(?=[{\]])")
_OBJECT = re.compile(r"\s*(?=\{)")
_DELIMITERS = {".csv": ",", ".tsv": "\t"}
SUFFIXES = (".jsonl", ".ndjson", ".json", *_DELIMITERS)

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


def _elements(stream: BinaryIO, first: int, stop: int) -> Iterator[tuple[int, int, bytes]]:
    """Yield the elements of a JSON array, from behind its bracket or behind an element."""
    stream.seek(first)
    data, start = b"", first  # bytes read and not yet used, and the offset of the first
    number = 0
    while True:
        data = data or stream.read(_HEAD_BYTES)
        gap = _GAP.match(data)
        assert gap is not None, "it matches the empty text"
        data, start = data[gap.end() :], start + gap.end()
        if not data and (more := stream.read(_HEAD_BYTES)):
            data = more
            continue
        if data and start >= stop:
            return
        if not data:
            raise ShardError(f"the JSON array breaks off at byte {start}: it has no end")
        if data.startswith(b"]"):
            _require_end(stream, data[1:], start + 1)
            return
        data, end = _whole_element(stream, data, start)
        number += 1
        yield number, start + end, data[:end]
        data, start = data[end:], start + end


def _whole_element(stream: BinaryIO, data: bytes, start: int) -> tuple[bytes, int]:
    """Read until the first element is whole; returns the bytes and where in them it ends."""
    while True:
        end = _end_of_value(data.decode("latin-1"), 0)
        if end is not None and end < len(data):  # a number may go on
            return data, end
        more = b"" if is_too_long(data) else stream.read(max(len(data), _HEAD_BYTES))
        if not more:
            raise ShardError(f"the JSON array breaks off: its element at byte {start} is damaged or too long")
        data += more


def _require_end(stream: BinaryIO, rest: bytes, position: int) -> None:
    """Raise ShardError if something follows an array."""
    while rest:
        if rest.strip():
            raise ShardError(f"something follows the end of the JSON array at byte {position}")
        rest, position = stream.read(_HEAD_BYTES), position + len(rest)


def _rows(stream: BinaryIO, first: int, stop: int, delimiter: str, head: bytes | None) -> Iterator[Record]:
    """Yield the rows of a CSV as objects by the names in its first row, which `head` has beyond it.

    An empty cell is absent.
    """
    csv.field_size_limit(MAX_RECORD_BYTES)
    lines = _CsvLines(stream, first, stop)
    reader = csv.reader(lines, delimiter=delimiter)
    names = next(reader if head is None else csv.reader(_lines_of(head), delimiter=delimiter), [])
    number = 0
    while True:
        number += 1
        lines.row_bytes = 0
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield Record(number, lines.position, fault=BadSample(f"the row is no CSV: {error}"))
            continue
        if len(cells) > len(names):
            fault = BadSample(f"the row has {len(cells)} cells, and the first row {len(names)}")
            yield Record(number, lines.position, fault=fault)
        elif cells:
            tree: dict[str, object] = {name: cell for name, cell in zip(names, cells, strict=False) if cell}
            yield Record(number, lines.position, tree)


def _lines_of(head: bytes) -> io.StringIO:
    whole = head[: head.rfind(b"\n") + 1] or head  # a cut character would make it no UTF-8
    return io.StringIO(_decoded(whole), newline="")


class _CsvLines:
    """Hands lines to csv's reader, which takes as many as a row has, and counts their bytes."""

    def __init__(self, stream: BinaryIO, first: int, stop: int) -> None:
        self._stream, self._stop = stream, stop
        self.position, self.row_bytes = first, 0

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        data = self._stream.readline(MAX_RECORD_BYTES + 1) if self.position < self._stop else b""
        if not data:
            raise StopIteration
        self.position += len(data)
        self.row_bytes += len(data)
        if self.row_bytes > MAX_RECORD_BYTES:
            raise ShardError(f"the row that ends behind byte {self.position} is too long: is a quote open?")
        return _decoded(data)


def _decoded(data: bytes) -> str:
    try:
        return decode_text(data)
    except UnicodeDecodeError:
        return data.decode("latin-1")
