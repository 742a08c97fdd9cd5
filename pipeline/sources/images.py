"""Reads a folder of images, each with an optional `.json` or `.txt` sidecar of the same stem."""

import functools
import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, groupby
from typing import ClassVar

from fsspec.implementations.local import LocalFileSystem

from pipeline.sources.base import (
    IMAGE_SUFFIXES,
    MAX_IMAGE_BYTES,
    Members,
    ReadTotals,
    Sample,
    Shard,
    Source,
    Want,
    Wanted,
    nothing_listed,
    other_type,
)
from pipeline.sources.questions import MAX_SIDECAR_BYTES, Keys
from pipeline.sources.read_ahead import Read, read_ahead
from pipeline.sources.sidecars import SIDECARS, assemble
from pipeline.storage.listing import File, ListingRules, list_entries
from pipeline.storage.opener import RefusedFileError, read_local
from pipeline.storage.paths import key_root
from pipeline.storage.uris import Storage, name_of
from pipeline.support.census import Census, PassedOver, Reason
from pipeline.support.errors import BadImage, BadSample, DataFault
from pipeline.support.fields import counted, require


@dataclass(frozen=True, kw_only=True)
class Images(Source):
    """Reads image files below a folder or matching a glob, in the order of their paths.

    A shard is `slice_files` images of the sorted listing. `sample_key` is the image's path relative
    to the folder.
    """

    rules: ClassVar[int] = 2
    slice_files: int = counted(4096)
    question_key: str | None = counted(None, neutral=True)
    questions_key: str | None = counted(None, neutral=True)
    question_id_key: str | None = counted(None, neutral=True)

    def __post_init__(self) -> None:
        require(self.slice_files >= 1, "source.slice_files must be at least 1")

    def entries(self, storage: Storage) -> Iterator[File | PassedOver]:
        """See `Source.entries`: each image, followed by its sidecars."""
        empty, census = True, Census()
        passed_over: list[PassedOver] = []  # since the last group

        def files() -> Iterator[File]:
            rules = ListingRules(self.follow_links, reads=_is_image, listing=self.listing)
            for entry in list_entries(self.path, storage, rules):
                if isinstance(entry, File):
                    yield entry
                else:
                    passed_over.append(entry)

        # the empty group at the end has what is passed over behind the last file
        for group in chain((list(group) for _, group in groupby(files(), key=_prefix)), [[]]):
            for entry in [*_images_and_sidecars(group), *passed_over]:
                if isinstance(entry, File):
                    empty = False
                else:
                    census.pass_over(entry)
                yield entry
            passed_over.clear()
        if empty:
            suffixes = ", ".join("." + suffix for suffix in IMAGE_SUFFIXES)
            raise nothing_listed(f"image ({suffixes})", self.path, census, storage)

    def shards(self, entries: Iterable[File], storage: Storage) -> Iterator[Shard]:
        """See `Source.shards`: a piece of the listing is a shard.

        A sidecar whose image is not among the entries is skipped.
        """
        ordinal, images = 0, 0
        files: list[File] = []
        for file in entries:
            if _is_image(file.uri):
                if images == self.slice_files:
                    yield _piece(ordinal, files)
                    ordinal, images, files = ordinal + 1, 0, []
                images += 1
                names = (_stem(file.uri), file.uri)
            elif not files or _stem(file.uri) not in names:
                continue
            files.append(file)
        if files:
            yield _piece(ordinal, files)

    def samples(self, shard: Shard, storage: Storage, wanted: Wanted) -> Iterator[Sample | None]:
        """See `Source.samples`."""
        return read_ahead(self._reads(shard, storage, wanted), shard.uri, storage)

    def image_folder(self, shard: Shard, storage: Storage) -> str | None:
        """See `Source.image_folder`; None if the shard's files are of several places of `path`."""
        folders = {key_root(file.uri, self.path, storage) for file in shard.files}
        return folders.pop() if len(folders) == 1 else None

    def members(
        self, shard: Shard, storage: Storage, samples: Iterable[Sample]
    ) -> Iterator[tuple[Sample, Members]]:
        """See `Source.members`: the sidecars of each image."""
        for sample, (_, *sidecars) in zip(samples, _by_image(shard.files), strict=False):
            yield sample, {_suffix(file.uri): self._content(file, storage, Want.ALL) for file in sidecars}

    def store_reads(self, totals: ReadTotals) -> tuple[float, float | None]:
        """See `Source.store_reads`: each image and each sidecar once."""
        files = totals.first_shard.files
        images = sum(_suffix(file.uri) not in SIDECARS for file in files)
        return totals.source_bytes, totals.samples * len(files) / max(1, images)

    def _reads(self, shard: Shard, storage: Storage, wanted: Wanted) -> Iterator[Read | None]:
        keys = Keys(self.question_key, self.questions_key, self.question_id_key)
        position = 0
        for index, files in enumerate(_by_image(shard.files)):
            position += sum(file.size for file in files)
            want = wanted(index)
            yield functools.partial(self._sample, files, position, keys, storage, want) if want else None

    def _sample(
        self,
        files: list[File],
        position: int,
        keys: Keys,
        storage: Storage,
        want: Want,
        max_bytes: int | None,
    ) -> Sample | None:
        if max_bytes is not None and sum(file.size for file in files) > max_bytes:
            return None
        read = files if Want.QUESTIONS in want else files[:1]
        parts = {_suffix(file.uri): self._content(file, storage, want) for file in read}
        uri = files[0].uri
        key = uri.removeprefix(key_root(uri, self.path, storage))
        return assemble(key, position, parts, (1, len(files) - 1), keys)

    def _content(self, file: File, storage: Storage, want: Want) -> bytes | DataFault:
        is_image = _is_image(file.uri)
        most = MAX_IMAGE_BYTES if is_image else MAX_SIDECAR_BYTES
        too_large = (BadImage if is_image else BadSample)(f"the file is too large: {file.size} bytes")
        if file.size > most:
            return too_large
        if is_image and Want.IMAGE not in want:
            return b""
        try:
            data = self._read(file, most, storage)
        except RefusedFileError as error:
            return BadSample(storage.redact(f"cannot read {file.uri}: {error}"))
        except (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError) as error:
            return BadSample(storage.redact(f"cannot read {file.uri}: {type(error).__name__}"))
        return data if len(data) <= most else too_large

    def _read(self, file: File, most: int, storage: Storage) -> bytes:
        """Read a file; RefusedFileError if it is no regular one, or is another than `listing` says."""
        fs, path = storage.open(file.uri)
        data: bytes | None
        if isinstance(fs, LocalFileSystem):
            root = storage.open(self.root_of(file.uri, storage))[1]
            data = read_local(path, root, most, follow_links=self.follow_links)
        elif self.listing is not None and file.etag and "s3" in fs.protocol:
            data = fs.cat_same(path, file.etag)
        else:
            data = bytes(fs.cat_file(path))
        if data is None or (self.listing is not None and len(data) != file.size):
            raise RefusedFileError("it has changed since source.listing was made")
        return data


def _images_and_sidecars(files: list[File]) -> Iterator[File | PassedOver]:
    """Yield each image followed by its sidecars, and the group's other files as passed over.

    The sidecars of `a.jpg` are `a.json` and `a.txt`, or `a.jpg.json` and `a.jpg.txt`.
    """
    if len(files) == 1 and _is_image(files[0].uri):
        yield files[0]
        return
    sidecars: dict[tuple[str, str], list[File]] = {}
    for file in files:
        if _suffix(file.uri) in SIDECARS:
            sidecars.setdefault((_stem(file.uri), _suffix(file.uri)), []).append(file)
    used, owned = set(), set()
    for image in (file for file in files if _is_image(file.uri)):
        yield image
        for kind in SIDECARS:
            own = [*sidecars.get((_stem(image.uri), kind), ()), *sidecars.get((image.uri, kind), ())]
            owned.update(own)
            if own:
                used.add(own[0])
                yield own[0]
    for file in files:
        if _suffix(file.uri) in SIDECARS:
            if file not in used:
                yield PassedOver(
                    name_of(file.uri), Reason.SECOND_SIDECAR if file in owned else Reason.NO_IMAGE
                )
        elif not _is_image(file.uri):
            yield PassedOver(name_of(file.uri), other_type(file.uri))


def _by_image(files: Iterable[File]) -> Iterator[list[File]]:
    """Group the plan's files: each image with the sidecars that follow it."""
    group: list[File] = []
    for file in files:
        if group and _is_image(file.uri):
            yield group
            group = []
        group.append(file)
    if group:
        yield group


def _piece(ordinal: int, files: list[File]) -> Shard:
    digest = hashlib.sha256(repr([(file.uri, file.size, file.etag) for file in files]).encode()).hexdigest()
    folder = _common_folder(files)
    first = files[0].uri.removeprefix(f"{folder}/")  # a name that no other piece has
    images = sum(_is_image(file.uri) for file in files)
    return Shard(
        ordinal,
        f"{folder}/#{first}",
        sum(file.size for file in files),
        digest,
        images,
        tuple(files),
    )


def _prefix(file: File) -> str:
    """Return the path up to the name's first dot; files that share it are neighbours in a listing."""
    folder, _, name = file.uri.rpartition("/")
    return f"{folder}/{name.split('.', 1)[0]}"


def _common_folder(files: list[File]) -> str:
    """Return the deepest folder that holds all of the sorted files."""
    folder = files[0].uri.rpartition("/")[0]
    while not files[-1].uri.startswith(f"{folder}/"):
        folder = folder.rpartition("/")[0]
    return folder


def _is_image(uri: str) -> bool:
    return _suffix(uri) in IMAGE_SUFFIXES


def _stem(uri: str) -> str:
    return uri.rpartition(".")[0]


def _suffix(uri: str) -> str:
    return uri[uri.rfind("/") + 1 :].rpartition(".")[2].lower()
