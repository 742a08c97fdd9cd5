"""Reads WebDataset tars: consecutive members with the same key are one sample."""

import re
import struct
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import BinaryIO, cast

from pipeline.sources.base import (
    IMAGE_SUFFIXES,
    MAX_IMAGE_BYTES,
    ReadTotals,
    Sample,
    Shard,
    Source,
    Want,
    Wanted,
    files_ending,
)
from pipeline.sources.sidecars import MAX_SIDECAR_BYTES, assemble
from pipeline.storage.listing import File
from pipeline.storage.uris import Storage
from pipeline.support.errors import BadImage, BadSample, DataFault, ShardError
from pipeline.support.fields import free, require

_MEMBER = re.compile(r"((?:.*/|)[^/.]+)\.([^/]*)", re.DOTALL)
_SUFFIXES = (*IMAGE_SUFFIXES, "json", "txt")
_MAX_HEADER_BYTES = 64 << 10  # of an extended header: names and attributes
_MAX_GLOBAL_HEADERS = 1000
# tarfile raises these for a damaged header besides its own errors.
_ODD_HEADER = (
    *(ValueError, ArithmeticError, LookupError, AttributeError, TypeError),
    *(RecursionError, MemoryError, struct.error),
)


@dataclass(frozen=True, kw_only=True)
class WebDataset(Source):
    """Reads tars of `key.jpg|jpeg|png|webp` with optional `key.json` / `key.txt`.

    `path` is one tar, a folder of tars or a glob. The layout is webdataset's: the key of a member is
    its path up to the first dot of its last part.
    """

    read_bytes: int = free(8 << 20)  # of one ranged read from object storage

    def __post_init__(self) -> None:
        require(self.read_bytes >= 1 << 16, "source.read_bytes must be at least 65536")

    def entries(self, storage: Storage) -> Iterator[File]:
        """See `Source.entries`."""
        return files_ending(self.path, (".tar",), storage)

    def shards(self, entries: Iterable[File], storage: Storage) -> Iterator[Shard]:
        """See `Source.shards`: a tar is a shard."""
        for ordinal, file in enumerate(entries):
            yield Shard(ordinal, file.uri, file.size, file.etag)

    def samples(self, shard: Shard, storage: Storage, wanted: Wanted) -> Iterator[Sample | None]:
        """See `Source.samples`."""
        fs, path = storage.open(shard.uri)
        caching = {} if "file" in fs.protocol else {"cache_type": "readahead", "block_size": self.read_bytes}
        with fs.open(path, "rb", **caching) as stream:
            try:
                archive = _Archive(stream, shard.size)
                with _open_tar(archive) as tar:
                    yield from _samples(tar, archive, wanted)
                    _require_end(tar)
            except tarfile.TarError as error:
                raise ShardError(f"the tar breaks off at byte {stream.tell()}: {error}") from None

    def store_reads(self, totals: ReadTotals) -> tuple[float, float | None]:
        """See `Source.store_reads`: two HEADs a tar, then ranges of `read_bytes`."""
        return totals.source_bytes, 2 * totals.complete_shards + totals.ranges(self.read_bytes)


class _Archive:
    """Lets tarfile read headers; refuses reads beyond the end and huge headers.

    A damaged or hostile header would otherwise make tarfile read gigabytes, or the same bytes forever.
    """

    def __init__(self, stream: BinaryIO, size: int) -> None:
        self._stream, self._size = stream, size

    def tell(self) -> int:
        return self._stream.tell()

    def seek(self, position: int) -> int:
        if not 0 <= position <= self._size:
            raise tarfile.ReadError("unexpected end of data")
        return self._stream.seek(position)

    def read(self, size: int) -> bytes:
        if not 0 <= size <= _MAX_HEADER_BYTES:
            raise tarfile.ReadError(f"bad header: it says that it is {size} bytes long")
        return self._stream.read(size)

    def require(self, member: tarfile.TarInfo) -> None:
        """Raise ReadError if the file ends before a member does."""
        if member.offset_data + member.size > self._size:
            raise tarfile.ReadError("unexpected end of data")

    def content(self, member: tarfile.TarInfo) -> bytes:
        """Read a member's bytes; ReadError if the file ends before they do."""
        self.require(member)
        self.seek(member.offset_data)
        data = self._stream.read(member.size)
        if len(data) != member.size:
            raise tarfile.ReadError("unexpected end of data")
        return data


def _open_tar(archive: _Archive) -> tarfile.TarFile:
    try:
        return cast(tarfile.TarFile, tarfile.open(fileobj=archive, mode="r:"))  # type: ignore[call-overload]
    except _ODD_HEADER as error:
        raise _bad_header(error) from None


def _bad_header(error: BaseException) -> tarfile.ReadError:
    return tarfile.ReadError(f"bad header: {type(error).__name__}")


@dataclass
class _Group:
    """Collects the members of one sample; `end` is the byte offset of the last one's end."""

    key: str
    want: Want
    end: int = 0
    parts: dict[str, bytes | DataFault] = field(default_factory=dict)

    def add(self, archive: _Archive, member: tarfile.TarInfo, suffix: str) -> None:
        """Read a member; if the tar breaks off within it, store that fault and raise TarError."""
        try:
            self.parts[suffix] = _content(archive, member, suffix, self.want) if self.want else b""
        except tarfile.TarError:
            self.parts[suffix] = BadSample(f"the tar breaks off within {member.name}")
            raise

    def sample(self) -> Sample | None:
        return assemble(self.key, self.end, self.parts) if self.want else None


def _samples(tar: tarfile.TarFile, archive: _Archive, wanted: Wanted) -> Iterator[Sample | None]:
    """Yield the tar's samples; folders and members of other suffixes are skipped.

    Raises:
        TarError: the tar cannot be read further; the sample that it breaks off in has been yielded.
    """
    index, group = 0, None
    error: tarfile.TarError | None = None
    try:
        for member in _members(tar):
            match = _MEMBER.fullmatch(member.name)
            if match is None or (suffix := match[2].lower()) not in _SUFFIXES:
                continue
            if group is None or match[1] != group.key or suffix in group.parts:
                if group is not None:
                    yield group.sample()
                group = _Group(match[1], wanted(index))
                index += 1
            group.end = tar.offset
            group.add(archive, member, suffix)
    except tarfile.TarError as damage:
        error = damage
    if group is not None:
        yield group.sample()
    if error is not None:
        raise error


def _members(tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
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


def _content(archive: _Archive, member: tarfile.TarInfo, suffix: str, want: Want) -> bytes | DataFault:
    is_image = suffix in IMAGE_SUFFIXES
    if not member.isreg() or member.issparse():  # a sparse file of a few bytes may be gigabytes of zeros
        return BadSample(f"the tar member {member.name} is a link, a device or sparse, not a plain file")
    if member.size > (MAX_IMAGE_BYTES if is_image else MAX_SIDECAR_BYTES):
        fault = BadImage if is_image else BadSample
        return fault(f"the tar member {member.name} is too large: {member.size} bytes")
    if is_image and want == Want.QUESTIONS:
        archive.require(member)
        return b""
    return archive.content(member)


def _require_end(tar: tarfile.TarFile) -> None:
    """Raise ReadError if the archive ends at a damaged header, which tarfile takes for its regular end."""
    stream = tar.fileobj
    assert stream is not None
    stream.seek(tar.offset)
    block = stream.read(tarfile.BLOCKSIZE)
    if not block:
        raise tarfile.ReadError("there is no end-of-archive mark")
    if block.strip(b"\0"):
        raise tarfile.ReadError("bad header")
