"""Reads WebDataset tars: an image with the sidecars of its name is one sample."""

import tarfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar

from pipeline.sources.archive import COMPRESSIONS, Archive
from pipeline.sources.base import Members, ReadTotals, Sample, Shard, Source, Wanted, files_ending
from pipeline.sources.groups import Grouping
from pipeline.sources.questions import Keys
from pipeline.sources.tar_members import members_of
from pipeline.storage.listing import File
from pipeline.storage.uris import Storage
from pipeline.support.census import PassedOver
from pipeline.support.errors import ShardError
from pipeline.support.fields import counted, free, require

_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.zst", ".tzst")


@dataclass(frozen=True, kw_only=True)
class WebDataset(Source):
    """Reads tars of images (`key.jpg`, `key.png` ...) with optional `key.json` / `key.txt`.

    `path` is one tar, a folder of tars or a glob; tars may be compressed by gzip or zstd. An image's key is
    its path without the last suffix. Which sidecars are its own: see `Grouping`.
    """

    rules: ClassVar[int] = 2
    read_bytes: int = free(8 << 20)  # of one ranged read from object storage
    question_key: str | None = counted(None, neutral=True)
    questions_key: str | None = counted(None, neutral=True)
    question_id_key: str | None = counted(None, neutral=True)

    def __post_init__(self) -> None:
        require(self.read_bytes >= 1 << 16, "source.read_bytes must be at least 65536")

    def entries(self, storage: Storage) -> Iterator[File | PassedOver]:
        """See `Source.entries`."""
        return files_ending(self, _SUFFIXES, storage)

    def shards(self, entries: Iterable[File], storage: Storage) -> Iterator[Shard]:
        """See `Source.shards`: a tar is a shard."""
        for ordinal, file in enumerate(entries):
            yield Shard(ordinal, file.uri, file.size, file.etag)

    def samples(self, shard: Shard, storage: Storage, wanted: Wanted) -> Iterator[Sample | PassedOver | None]:
        """See `Source.samples`."""
        keys = Keys(self.question_key, self.questions_key, self.question_id_key)
        with self._opened(shard, storage) as archive:
            yield from Grouping(archive, wanted, keys).samples()

    def members(
        self, shard: Shard, storage: Storage, samples: Iterable[Sample]
    ) -> Iterator[tuple[Sample, Members]]:
        """See `Source.members`: the other members of each image's group; see `members_of`."""
        with self._opened(shard, storage) as archive:
            yield from members_of(archive, samples)

    @contextmanager
    def _opened(self, shard: Shard, storage: Storage) -> Iterator[Archive]:
        suffix = next((suffix for suffix in COMPRESSIONS if shard.uri.lower().endswith(suffix)), None)
        caching = {"cache_type": "readahead", "block_size": self.read_bytes}
        with self.open_shard(shard, storage, **caching) as stream:
            try:
                yield Archive(stream, shard.size, COMPRESSIONS[suffix] if suffix else None)
            except tarfile.TarError as error:
                raise ShardError(f"the tar breaks off at byte {stream.tell()}: {error}") from None

    def store_reads(self, totals: ReadTotals) -> tuple[float, float | None]:
        """See `Source.store_reads`: two HEADs a tar, then ranges of `read_bytes`."""
        return totals.source_bytes, 2 * totals.complete_shards + totals.ranges(self.read_bytes)
