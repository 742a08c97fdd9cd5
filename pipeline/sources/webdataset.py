"""WebDataset tars: consecutive members with the same key are one sample."""

import re
import struct
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import BinaryIO

from pipeline.sources.base import (
    IMAGE_SUFFIXES,
    MAX_IMAGE_BYTES,
    MAX_SIDECAR_BYTES,
    Sample,
    Shard,
    Want,
    Wanted,
    assemble,
    files_ending,
)
from pipeline.storage.listing import File
from pipeline.storage.uris import Storage
from pipeline.support.errors import BadImage, BadSample, DataFault, ShardError
from pipeline.support.fields import free, require

_MEMBER = re.compile(r"((?:.*/|)[^/.]+)\.([^/]*)", re.DOTALL)
_SUFFIXES = (*IMAGE_SUFFIXES, "json", "txt")
_MAX_HEADER_BYTES = 64 << 10  # of an extended header: names and attributes
_MAX_GLOBAL_HEADERS = 1000
# What tarfile raises of a damaged header besides its own errors.
_ODD_HEADER = (
    *(ValueError, ArithmeticError, LookupError, AttributeError, TypeError),
    *(RecursionError, MemoryError, struct.error),
)


@dataclass(frozen=True, kw_only=True)
class WebDataset:
    """Tars of `key.jpg|jpeg|png|webp` with optional `key.json` / `key.txt`.

    `path` is one tar, a folder of tars or a glob. The layout is webdataset's: the key of a member is
    its path up to the first dot of its last part.
    """

    path: str = free()  # the plan holds what it stood for
    read_bytes: int = free(8 << 20)  # how much is fetched at once from object storage

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
                with _first_header(archive) as tar:
                    yield from _grouped(tar, archive, wanted)
                    _require_end(tar)
            except tarfile.TarError as error:
                raise ShardError(f"the tar breaks off at byte {stream.tell()}: {error}") from None


class _Archive:
    """The file as tarfile reads headers from it: no further than it goes, and no more than headers take.

    A damaged or hostile header would have it read gigabytes, or go back and read the same for ever.
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
        """ReadError if the file ends before a member does."""
        if member.offset_data + member.size > self._size:
            raise tarfile.ReadError("unexpected end of data")

    def content(self, member: tarfile.TarInfo) -> bytes:
        """A member's bytes; ReadError if the file ends before they do."""
        self.require(member)
        self.seek(member.offset_data)
        data = self._stream.read(member.size)
        if len(data) != member.size:
            raise tarfile.ReadError("unexpected end of data")
        return data


def _first_header(archive: _Archive) -> tarfile.TarFile:
    try:
        return tarfile.open(fileobj=archive, mode="r:")  # type: ignore[call-overload]
    except _ODD_HEADER as error:
        raise _bad_header(error) from None


def _bad_header(error: BaseException) -> tarfile.ReadError:
    return tarfile.ReadError(f"bad header: {type(error).__name__}")


def _grouped(tar: tarfile.TarFile, archive: _Archive, wanted: Wanted) -> Iterator[Sample | None]:
    """The tar's samples; members that are no part of one (other suffixes, folders) are passed over."""
    index, key, take = -1, None, Want.NOTHING
    parts: dict[str, bytes | DataFault] = {}
    end = 0
    broken: tarfile.TarError | None = None
    members = _members(tar)
    while broken is None:
        try:
            member = next(members, None)
        except tarfile.TarError as error:
            broken, member = error, None
        if member is None:
            break
        match = _MEMBER.fullmatch(member.name)
        if match is None or match[2].lower() not in _SUFFIXES:
            continue
        suffix = match[2].lower()
        if match[1] != key or suffix in parts:
            if key is not None:
                yield assemble(key, end, parts) if take else None
            index, key, parts = index + 1, match[1], {}
            take = wanted(index)
        try:
            parts[suffix] = _content(archive, member, suffix, take) if take else b""
        except tarfile.TarError as error:
            parts[suffix] = BadSample(f"the tar breaks off within {member.name}")
            broken = error
        end = tar.offset
    if key is not None:
        yield assemble(key, end, parts) if take else None
    if broken is not None:
        raise broken


def _members(tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """The members in order; ReadError for a header that cannot be read, or that leads back."""
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
    """Tell the end of an archive from a header that cannot be read: tarfile takes both for the end."""
    stream = tar.fileobj
    assert stream is not None
    stream.seek(tar.offset)
    block = stream.read(tarfile.BLOCKSIZE)
    if not block:
        raise tarfile.ReadError("there is no end-of-archive mark")
    if block.strip(b"\0"):
        raise tarfile.ReadError("bad header")
