"""Reads the members of a tar in order: plain, compressed, or several archives one after another.

tarfile parses the headers. What it does not do for hostile or damaged input is done here: reads stay within
the file and within bounds, and what cannot be read is an error instead of a quiet end.
"""

import struct
import tarfile
from collections.abc import Iterator
from typing import BinaryIO, cast

import pyarrow as pa

_MAX_HEADER_BYTES = 64 << 10  # of an extended header: names and attributes
_MAX_GLOBAL_HEADERS = 1000
_SKIP_BYTES = 1 << 20  # of one read whose bytes are not used
_PIECE_BYTES = 4 << 10
# Images hardly shrink, so a shard that expands more than this is no shard of images.
_MAX_EXPANSION, _FREE_EXPANSION_BYTES = 64, 64 << 20
# tarfile raises these for a damaged header besides its own errors.
_ODD_HEADER = (
    *(ValueError, ArithmeticError, LookupError, AttributeError, TypeError),
    *(RecursionError, MemoryError, struct.error),
)
COMPRESSIONS = {".gz": "gzip", ".tgz": "gzip", ".zst": "zstd", ".tzst": "zstd"}


class Archive:
    """Lets tarfile read headers from a stream, and reads the contents of members.

    A damaged or hostile header would otherwise make tarfile read gigabytes, or the same bytes forever.

    Args:
        stream: the file as stored.
        size: its bytes.
        compression: "gzip" or "zstd"; None: plain.
    """

    def __init__(self, stream: BinaryIO, size: int, compression: str | None = None) -> None:
        self._stored = stream
        self.is_compressed = compression is not None
        self._stream: _Plain | _Expanding = (
            _Plain(stream, size) if compression is None else _Expanding(stream, size, compression)
        )
        self.tell, self.seek = self._stream.tell, self._stream.seek

    def read(self, size: int) -> bytes:
        if not 0 <= size <= _MAX_HEADER_BYTES:
            raise tarfile.ReadError(f"bad header: it says that it is {size} bytes long")
        return self._stream.read(size)

    def require(self, member: tarfile.TarInfo) -> None:
        """Raise ReadError if the file is known to end before a member does."""
        self._stream.require(member.offset_data + member.size)

    def content(self, member: tarfile.TarInfo) -> bytes:
        """Read a member's bytes; ReadError if the file ends before they do."""
        self.require(member)
        self.seek(member.offset_data)
        data = self._stream.read(member.size)
        if len(data) != member.size:
            raise tarfile.ReadError("unexpected end of data")
        return data

    def members(self) -> Iterator[tuple[tarfile.TarInfo, int]]:
        """Yield the members of each archive in the file, each with the bytes of the file up to its end.

        Raises:
            TarError: the file cannot be read further.
        """
        start: int | None = 0
        while start is not None:
            self.seek(start)
            tar = self._open()
            for member in _members(tar, self):
                yield member, self._stored.tell() if self.is_compressed else tar.offset
            start = self._next_archive(tar.offset)

    def _open(self) -> tarfile.TarFile:
        try:
            return cast(
                tarfile.TarFile,
                tarfile.open(fileobj=self, mode="r:", tarinfo=_Header),  # type: ignore[call-overload]
            )
        except _ODD_HEADER as error:
            raise _bad_header(error) from None

    def _next_archive(self, end: int) -> int | None:
        """Return where the next archive begins behind the end mark at `end`; None if there is no other.

        Archives stand one after another in a file made by `cat a.tar b.tar`, with zeros between them.

        Raises:
            ReadError: there is no end mark: tarfile takes a damaged header for a regular end.
        """
        self.seek(end)
        block = self._stream.read(tarfile.BLOCKSIZE)
        if not block:
            raise tarfile.ReadError("there is no end-of-archive mark")
        if block.strip(b"\0"):
            raise tarfile.ReadError("bad header")
        position = end + len(block)
        while data := self._stream.read(_SKIP_BYTES):
            if rest := data.lstrip(b"\0"):
                zeros = position + len(data) - len(rest) - end
                return end + zeros - zeros % tarfile.BLOCKSIZE
            position += len(data)
        return None


class _Header(tarfile.TarInfo):
    """Parses what is needed of a plain file's header: name and size; tarfile parses all others.

    Owners, times and device numbers take tarfile most of the time of reading a tar of small files.
    """

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str | None, errors: str) -> "_Header":
        """See tarfile; raises its errors."""
        is_plain = len(buf) == tarfile.BLOCKSIZE and buf[156:157] in (tarfile.REGTYPE, tarfile.AREGTYPE)
        name = bytes(buf[:100]).partition(b"\0")[0]
        if not is_plain or buf[345] or name.endswith(b"/") or not _has_checksum(buf):
            return super().frombuf(buf, encoding, errors)  # type: ignore[arg-type]
        header = cls(name.decode(encoding or "utf-8", errors))
        header.type = bytes(buf[156:157])
        header.size = tarfile.nti(buf[124:136])  # type: ignore[attr-defined]
        return header


def _has_checksum(buf: bytes | bytearray) -> bool:
    """Tell whether a header's sum of bytes is the one that it says."""
    try:
        return sum(buf) - sum(buf[148:156]) + 8 * ord(" ") == int(buf[148:156].rstrip(b"\0 "), 8)
    except ValueError:
        return False


class _Plain:
    """A file as stored, which can be read from any position."""

    def __init__(self, stream: BinaryIO, size: int) -> None:
        self._stream, self._size = stream, size
        self.tell, self.read = stream.tell, stream.read

    def seek(self, position: int) -> int:
        if not 0 <= position <= self._size:
            raise tarfile.ReadError("unexpected end of data")
        return self._stream.seek(position)

    def require(self, end: int) -> None:
        if end > self._size:
            raise tarfile.ReadError("unexpected end of data")


class _Expanding:
    """The bytes of a compressed file, which can be read forwards, and again from within the last read."""

    def __init__(self, stream: BinaryIO, size: int, compression: str) -> None:
        self._stream = pa.CompressedInputStream(pa.PythonFile(stream, mode="r"), compression)
        self._most = _MAX_EXPANSION * size + _FREE_EXPANSION_BYTES
        self._position = 0
        self._last, self._last_start = b"", 0
        self._damage: tarfile.ReadError | None = None

    def tell(self) -> int:
        return self._position

    def seek(self, position: int) -> int:
        if position < self._last_start:
            raise tarfile.ReadError("bad header: it points back")
        if position <= self._last_start + len(self._last):
            self._position = position
        while self._position < position:
            if not self.read(min(position - self._position, _SKIP_BYTES)):
                raise tarfile.ReadError("unexpected end of data")
        return self._position

    def read(self, size: int) -> bytes:
        offset = self._position - self._last_start
        data = self._last[offset : offset + size]
        if len(data) < size:
            data += self._expand(size - len(data))
            self._last, self._last_start = (data, self._position) if size <= _SKIP_BYTES else (b"", 0)
        self._position += len(data)
        if not self._last:
            self._last_start = self._position
        return data

    def _expand(self, size: int) -> bytes:
        """Expand the next bytes, in pieces: what comes before damage is not lost with it."""
        if self._damage is not None:
            raise self._damage
        if self._position + size > self._most:
            raise tarfile.ReadError(f"it expands to more than {_MAX_EXPANSION} times its size")
        data = bytearray()
        try:
            while piece := self._stream.read(min(size - len(data), _PIECE_BYTES)):
                data += piece
        except (OSError, pa.ArrowException) as error:
            self._damage = tarfile.ReadError(f"the compressed data is damaged: {str(error)[:200]}")
            if not data:
                raise self._damage from None
        return bytes(data)

    def require(self, end: int) -> None:
        """Do nothing: where a compressed file ends is known only at its end."""


def _members(tar: tarfile.TarFile, archive: Archive) -> Iterator[tarfile.TarInfo]:
    """Yield the members in order; ReadError for a header that cannot be read, or that points back."""
    end = -1
    while True:
        try:
            member = tar.next()
        except _ODD_HEADER as error:
            raise _bad_header(error) from None
        if member is None:
            return
        if tar.offset <= end or member.size < 0 or len(tar.pax_headers) > _MAX_GLOBAL_HEADERS:
            raise tarfile.ReadError("bad header")
        end = tar.offset
        tar.members.clear()  # type: ignore[attr-defined]  # tarfile would keep every header of the archive
        yield member
        archive.seek(end)  # else tarfile reads a byte more for each member


def _bad_header(error: BaseException) -> tarfile.ReadError:
    return tarfile.ReadError(f"bad header: {type(error).__name__}")
