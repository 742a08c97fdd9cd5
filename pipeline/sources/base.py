"""Defines the base class of sources, which list files, group them into shards and yield samples."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from enum import IntFlag
from typing import Any, BinaryIO, ClassVar, Self

from pipeline.storage.listing import File, ListingRules, list_entries
from pipeline.storage.opener import RefusedFileError, open_file
from pipeline.storage.paths import SourcePath, listed_root, parts_of
from pipeline.storage.uris import Storage, name_of
from pipeline.support.census import Census, PassedOver, Reason
from pipeline.support.errors import ConfigError, DataFault, ShardError
from pipeline.support.fields import counted, free

IMAGE_SUFFIXES = (
    *("jpg", "jpeg", "png", "webp"),  # of several images of one name, the first of these is told first
    *("jpe", "jfif", "gif", "bmp", "dib", "tif", "tiff", "avif"),
)
MAX_IMAGE_BYTES = 256 << 20

_ARCHIVES = (".tar", ".gz", ".tgz", ".zst", ".tzst", ".bz2", ".xz", ".zip", ".7z", ".rar")

# A source may read this many samples ahead of the one that it yields.
AHEAD = 8


class Want(IntFlag):
    """Says how much of a sample to read. What is left out changes nothing else of it.

    Without QUESTIONS a source need not read what holds them alone, such as sidecars. Without IMAGE a source
    that can skip the image leaves it empty. Each of both includes KEY: the sample's key alone.
    """

    NOTHING = 0
    KEY = 1
    IMAGE = 3
    QUESTIONS = 5
    ALL = 7


Wanted = Callable[[int], Want]
# What a sample has beside its image, by suffix: its content, or why it cannot be read.
Members = Mapping[str, bytes | DataFault]


@dataclass(frozen=True)
class Question:
    """Holds one question; `question_id` is its name in the source, "" if it has none.

    `fault` says why it cannot be asked.
    """

    question_id: str
    text: str
    fault: str | None = None


@dataclass(frozen=True)
class Sample:
    """Holds one image with its questions.

    Args:
        key: the source's name for it.
        position: bytes of the shard from its start to the sample's end.
        image: encoded, as stored.
        questions: in the source's order.
        fault: why the sample as a whole is unusable; the other fields are then as complete as they can be.
        question_fault: why its questions cannot be read; a fixed prompt can still be asked.
        taken: how many of the shard's entries became this sample: images and sidecars.
    """

    key: str
    position: int
    image: bytes | None = None
    questions: tuple[Question, ...] = ()
    fault: DataFault | None = None
    question_fault: DataFault | None = None
    taken: tuple[int, int] = (0, 0)


@dataclass(frozen=True)
class Shard:
    """Describes one line of the plan.

    Args:
        shard: its number, from 0.
        uri: names it; for a piece of a listing or of a file, no file of that name exists.
        size: bytes.
        etag: changes with the content.
        samples: how many samples to read, from the first; None: all.
        files: those of a piece of a listing; empty if `uri` is the shard's one file.
    """

    shard: int
    uri: str
    size: int
    etag: str
    samples: int | None = None
    files: tuple[File, ...] = ()

    @property
    def own_files(self) -> tuple[File, ...]:
        """The shard's files; without a list of files, the shard itself is the only one."""
        return self.files or (File(self.uri, self.size, self.etag),)


@dataclass(frozen=True)
class ReadTotals:
    """Counts what a run read of a source, from its units' footers; see `Source.store_reads`.

    Args:
        samples: how many were read.
        complete_shards: shards that were read to their ends.
        shard_bytes: bytes that were read of each shard.
        image_bytes: of the encoded images.
        first_shard: the plan's, as an example of a shard's files.
    """

    samples: int
    complete_shards: int
    shard_bytes: tuple[int, ...]
    image_bytes: int
    first_shard: Shard

    @property
    def source_bytes(self) -> int:
        """The bytes that the run read of all shards."""
        return sum(self.shard_bytes)

    def ranges(self, block_bytes: int) -> int:
        """Count the ranged GETs that read the shards in blocks of `block_bytes`."""
        return sum(math.ceil(size / block_bytes) for size in self.shard_bytes)


@dataclass(frozen=True, kw_only=True)
class Source(ABC):
    """Reads one kind of input. A new kind is a subclass, a frozen dataclass in a file, and a YAML.

    The subclass's fields are the YAML's keys, each `counted(...)` if it can change a sample, else
    `free(...)`. It must implement `entries`, `shards` and `samples`. Every method must depend on its
    arguments, the fields and the files alone: a rerun, `verify deep=true` and `export` call it again.

    Args:
        path: a file, a folder or a glob, or a list of them, as the user wrote it; see `storage/paths.py`.
        follow_links: of local files; else links are passed over, and a path over one is a fault.
        listing: a table that names the files with their sizes, instead of asking the store; `path` selects.

    Attributes:
        rules: number of the rules by which files become samples. A change of the rules raises it: an output
            that was begun by other rules is continued only if they make no difference to what it holds.
    """

    rules: ClassVar[int] = 1
    path: Any = free()  # text or a list of texts, which OmegaConf's unions cannot say
    follow_links: bool = counted(False, neutral=True)
    listing: str | None = free(None)

    @abstractmethod
    def entries(self, storage: Storage) -> Iterator[File | PassedOver]:
        """List the files to read, in the order of their URIs; `files_ending` does it for most sources.

        What the listing has beside them is yielded as `PassedOver`.

        Raises:
            ConfigError: there are none.
        """

    @abstractmethod
    def shards(self, entries: Iterable[File], storage: Storage) -> Iterator[Shard]:
        """Group the entries into shards, numbered from 0.

        More entries at the end must not change the shards before the last one: `extend=true` appends.
        """

    @abstractmethod
    def samples(self, shard: Shard, storage: Storage, wanted: Wanted) -> Iterator[Sample | PassedOver | None]:
        """Yield the shard's samples in order, with None in the place of each unwanted one.

        `wanted(index)` must be called once for each sample, in order, before its bytes are read and at most
        AHEAD samples before it is yielded; it may be called for one sample more than there are. What is wrong
        with one sample goes into its `fault`. An entry of the shard of which no sample is made is yielded as
        `PassedOver`, in the same place every time.

        Raises:
            ShardError: the rest of the shard cannot be read; the samples before it have been yielded.
        """

    def relocated(self, path: SourcePath) -> Self:
        """Return the same source read from `path`, for `verify` and `export` after the input has moved.

        A listing is of the old path.
        """
        same = parts_of(path) == parts_of(self.path)
        return replace(self, path=path, listing=self.listing if same else None)

    def image_folder(self, shard: Shard, storage: Storage) -> str | None:
        """Return the folder below which `sample_key` names a shard's image files, as a URI that ends in `/`.

        None: the images are not files of their own, or not files of that name.
        """
        return None

    def members(
        self, shard: Shard, storage: Storage, samples: Iterable[Sample]
    ) -> Iterator[tuple[Sample, Members]]:
        """Yield each of a shard's samples with what the source has beside its image.

        `export members=all` copies it.

        Args:
            samples: all of them, in order, as `samples` yields them.

        Raises:
            ConfigError: this kind of source has nothing beside its images.
        """
        raise ConfigError(f"members: a source of {type(self).__name__} has no other members to export")

    def open_shard(self, shard: Shard, storage: Storage, **caching: object) -> BinaryIO:
        """Open the file that is a shard, or of which it is a piece.

        Args:
            caching: options of fsspec's `open` for other stores than the local disk.

        Raises:
            ShardError: it is no regular file, or a link leads to it that is not followed.
        """
        uri = shard.own_files[0].uri
        try:
            return open_file(
                uri, self.root_of(uri, storage), storage, follow_links=self.follow_links, **caching
            )
        except RefusedFileError as error:
            raise ShardError(f"the file is not read: {error}") from None

    def root_of(self, uri: str, storage: Storage) -> str:
        """Return the place of `path` that a listed file lies below; else its folder."""
        return listed_root(uri, self.path, storage) or uri.rpartition("/")[0]

    def store_reads(self, totals: ReadTotals) -> tuple[float, float | None]:
        """Estimate the bytes and GET requests that reading took, for the capacity planner.

        HEADs count as GETs. None: the number of requests is unknown, and the planner leaves it out.
        """
        return totals.source_bytes, None


def files_of(source: Source, storage: Storage, census: Census | None = None) -> Iterator[File]:
    """List a source's files; `census` counts what is passed over."""
    for entry in source.entries(storage):
        if isinstance(entry, File):
            yield entry
        elif census is not None:
            census.pass_over(entry)


def files_ending(
    source: Source, suffixes: tuple[str, ...], storage: Storage, *, of_tables: bool = False
) -> Iterator[File | PassedOver]:
    """List the files of a source whose names end in one of the suffixes, in any letter case.

    Args:
        source: its `path`, `follow_links` and `listing` say what is listed, and how.
        of_tables: see `storage/listing.py:ListingRules`.

    Raises:
        ConfigError: there are none; it names what is there.
    """
    empty, census = True, Census()
    rules = ListingRules(
        source.follow_links, of_tables, lambda uri: uri.lower().endswith(suffixes), source.listing
    )
    for entry in list_entries(source.path, storage, rules):
        if isinstance(entry, File) and not entry.uri.lower().endswith(suffixes):
            entry = PassedOver(name_of(entry.uri), other_type(entry.uri))
        if isinstance(entry, File):
            empty = False
        else:
            census.pass_over(entry)
        yield entry
    if empty:
        raise nothing_listed(suffixes[0], source.path, census, storage)


def nothing_listed(kind: str, path: object, census: Census, storage: Storage) -> ConfigError:
    """Make the error for a listing without a file of a kind; it names what the listing has."""
    passed_over = f"; passed over: {census.description()}" if census.entries else ""
    places = ", ".join(parts_of(path))
    return ConfigError(f"source.path: no {kind} at {storage.redact(f'{places}{passed_over}')}")


def other_type(uri: str) -> Reason:
    """Tell why a file of another type is passed over."""
    return Reason.ARCHIVE if uri.lower().endswith(_ARCHIVES) else Reason.OTHER_TYPE
