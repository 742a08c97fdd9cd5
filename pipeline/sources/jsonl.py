"""Reads JSONL in the layout of LLaVA's evaluation files: `question_id`, `image`, `text` on each line."""

import functools
import io
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import chain, groupby
from typing import BinaryIO, cast

from pipeline.sources.base import (
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
from pipeline.sources.sidecars import (
    MAX_QUESTION_CHARACTERS,
    MAX_QUESTIONS,
    MAX_SIDECAR_BYTES,
    parse_object,
    parse_questions,
    question_characters,
)
from pipeline.storage.listing import File
from pipeline.storage.uris import BLOCK_BYTES, Storage
from pipeline.support.census import PassedOver
from pipeline.support.errors import BadSample, DataFault
from pipeline.support.fields import counted, free, require


@dataclass(frozen=True)
class _Line:
    """Holds one line: its image and question, or its fault; `stop` is the byte offset of its end."""

    number: int
    stop: int
    image: str | None = None
    question: Question | None = None
    fault: DataFault | None = None

    @property
    def group(self) -> tuple[str | int | None, ...]:
        """A key that consecutive lines of one sample share: the image that they name."""
        return (self.image,) if self.image is not None else (None, self.number)


@dataclass(frozen=True, kw_only=True)
class Jsonl(Source):
    """Reads JSONL files; consecutive lines with the same image are one sample.

    A shard is a slice of some `slice_files` lines. Images are relative to `image_root`, or to the
    JSONL's folder; `sample_key` is the image as the line names it.
    """

    image_root: str | None = free(None)
    slice_files: int = counted(4096)

    def __post_init__(self) -> None:
        require(self.slice_files >= 1, "source.slice_files must be at least 1")

    def entries(self, storage: Storage) -> Iterator[File | PassedOver]:
        """See `Source.entries`."""
        suffixes = (".jsonl", ".ndjson", ".json")
        return files_ending(self.path, suffixes, storage, follow_links=self.follow_links)

    def shards(self, entries: Iterable[File], storage: Storage) -> Iterator[Shard]:
        """See `Source.shards`: slices that end where a sample does."""
        ordinal = 0
        for file in entries:
            first = start = lines = samples = 0
            shard = _slice(ordinal, file, 0, file.size, 0)
            for _, group in groupby(self._lines(shard, 0, file.size, storage), key=lambda line: line.group):
                count, last = _count(group)
                if lines >= self.slice_files:
                    yield _slice(ordinal, file, first, start, samples)
                    ordinal, first, lines, samples = ordinal + 1, start, 0, 0
                lines, samples, start = lines + count, samples + 1, last.stop
            yield _slice(ordinal, file, first, file.size, samples)
            ordinal += 1

    def samples(self, shard: Shard, storage: Storage, wanted: Wanted) -> Iterator[Sample | None]:
        """See `Source.samples`."""
        root = self.image_root or shard.uri.rpartition("/")[0]
        return read_ahead(self._reads(shard, root, storage, wanted), root, storage)

    def store_reads(self, totals: ReadTotals) -> tuple[float, float | None]:
        """See `Source.store_reads`: two HEADs a file, its text in blocks, and each image once."""
        gets = 2 * totals.complete_shards + totals.ranges(BLOCK_BYTES) + totals.samples
        return totals.source_bytes + totals.image_bytes, gets

    def _lines(self, shard: Shard, first: int, stop: int, storage: Storage) -> Iterator[_Line]:
        with self.open_shard(shard, storage) as file:
            yield from _lines(file, first, stop)

    def _reads(
        self, shard: Shard, root: str, storage: Storage, wanted: Wanted
    ) -> Iterator[Read | Sample | None]:
        first, stop = map(int, shard.uri.rpartition("#")[2].split("-"))
        lines = self._lines(shard, first, stop, storage)
        for index, (_, group) in enumerate(groupby(lines, key=lambda line: line.group)):
            of_sample, stop_of_sample = _gather_sample(group)
            image, sample = of_sample[0].image, _sample(of_sample, stop_of_sample - first)
            want = wanted(index)
            if want == Want.ALL and image is not None and sample.fault is None:
                yield functools.partial(
                    with_image, sample, root, image, storage, follow_links=self.follow_links
                )
            else:
                yield sample if want else None


def _count(lines: Iterator[_Line]) -> tuple[int, _Line]:
    """Count lines and return the last one, without holding them."""
    ((count, last),) = deque(enumerate(lines, 1), maxlen=1)
    return count, last


def _gather_sample(lines: Iterator[_Line]) -> tuple[list[_Line], int]:
    """Collect one sample's lines and their end in bytes; of too many lines the first alone, with a fault."""
    collected: list[_Line] = []
    characters = 0
    for line in lines:
        collected.append(line)
        characters += question_characters(line.question) if line.question else 0
        if len(collected) > MAX_QUESTIONS or characters > MAX_QUESTION_CHARACTERS:
            rest, last = _count(chain([line], lines))
            fault = BadSample(f"{len(collected) + rest - 1} lines ask too much of one image")
            return [replace(collected[0], fault=fault)], last.stop
    return collected, collected[-1].stop


def _slice(ordinal: int, file: File, first: int, stop: int, samples: int) -> Shard:
    return Shard(ordinal, f"{file.uri}#{first}-{stop}", stop - first, file.etag, samples, (file,))


def _sample(lines: list[_Line], position: int) -> Sample:
    """Make a sample, without its image, of its lines."""
    key, fault = lines[0].image, lines[0].fault
    questions = tuple(line.question for line in lines if line.question is not None)
    return Sample(f"line {lines[0].number}" if key is None else key, position, None, questions, fault)


def _lines(file: BinaryIO, first: int, stop: int) -> Iterator[_Line]:
    """Yield the lines between two byte offsets; blank ones are skipped."""
    stream = io.BufferedReader(cast(io.RawIOBase, file), 1 << 20)  # an S3 file's `readline` takes no limit
    stream.seek(first)
    position, number = first, 0
    while position < stop and (text := stream.readline(MAX_SIDECAR_BYTES + 1)):
        position += len(text) + _rest_of_line(stream, text)
        number += 1
        if text.strip():
            yield _parse(text, number, position)


def _rest_of_line(stream: BinaryIO, text: bytes) -> int:
    """Skip the rest of a line that `text` begins; returns its bytes."""
    size = 0
    while len(text) > MAX_SIDECAR_BYTES and not text.endswith(b"\n"):
        text = stream.readline(MAX_SIDECAR_BYTES + 1)
        size += len(text)
    return size


def _parse(text: bytes, number: int, stop: int) -> _Line:
    try:
        if len(text) > MAX_SIDECAR_BYTES:
            raise BadSample(f"the line is too long: more than {MAX_SIDECAR_BYTES} bytes")
        tree = parse_object(text, "line")
        if not isinstance(image := tree.get("image"), str):
            raise BadSample("the line names no image")
        name = tree.get("question_id")
        text_of_question = tree["text"] if "text" in tree else tree.get("question")
        item = {"question_id": name, "question": "" if text_of_question is None else text_of_question}
        (question,) = parse_questions([item])
    except DataFault as fault:
        return _Line(number, stop, fault=fault)
    return _Line(number, stop, image, question)
