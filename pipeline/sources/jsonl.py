"""JSONL in the layout of LLaVA's evaluation files: `question_id`, `image`, `text`, one question a line."""

import functools
import io
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import chain, groupby
from typing import Any, BinaryIO

from pipeline.sources.base import (
    MAX_QUESTION_CHARACTERS,
    MAX_QUESTIONS,
    MAX_SIDECAR_BYTES,
    Question,
    Read,
    Sample,
    Shard,
    Want,
    Wanted,
    files_ending,
    parse_object,
    parse_questions,
    question_characters,
    read_ahead,
    with_image,
)
from pipeline.storage.listing import File
from pipeline.storage.uris import Storage
from pipeline.support.errors import BadSample, DataFault
from pipeline.support.fields import counted, free, require


@dataclass(frozen=True)
class _Line:
    """One line: its image and question, or what is wrong with it; `stop` is where it ends, in bytes."""

    number: int
    stop: int
    image: str | None = None
    question: Question | None = None
    fault: DataFault | None = None

    @property
    def sample(self) -> tuple[Any, ...]:
        """Equal for consecutive lines of one sample: those that name the same image."""
        return (self.image,) if self.image is not None else (None, self.number)


@dataclass(frozen=True, kw_only=True)
class Jsonl:
    """A JSONL file, a folder or a glob of them; consecutive lines with the same image are one sample.

    A shard is a slice of some `slice_files` lines. Images are relative to `image_root`, or to the
    JSONL's folder; `sample_key` is the image as the line names it.
    """

    path: str = free()
    image_root: str | None = free(None)
    slice_files: int = counted(4096)

    def __post_init__(self) -> None:
        require(self.slice_files >= 1, "source.slice_files must be at least 1")

    def entries(self, storage: Storage) -> Iterator[File]:
        """See `Source.entries`."""
        return files_ending(self.path, (".jsonl", ".ndjson", ".json"), storage)

    def shards(self, entries: Iterable[File], storage: Storage) -> Iterator[Shard]:
        """See `Source.shards`: slices that end where a sample does."""
        ordinal = 0
        for file in entries:
            first = start = lines = samples = 0
            for _, group in groupby(_lines(file.uri, 0, file.size, storage), key=lambda line: line.sample):
                count, last = _counted(group)
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

    def _reads(
        self, shard: Shard, root: str, storage: Storage, wanted: Wanted
    ) -> Iterator[Read | Sample | None]:
        uri, _, span = shard.uri.rpartition("#")
        first, stop = map(int, span.split("-"))
        lines = _lines(uri, first, stop, storage)
        for index, (_, group) in enumerate(groupby(lines, key=lambda line: line.sample)):
            found, stop_of_sample = _gathered(group)
            want, sample, image = wanted(index), _sample(found, stop_of_sample - first), found[0].image
            if want == Want.ALL and image is not None and sample.fault is None:
                yield functools.partial(with_image, sample, root, image, storage)
            else:
                yield sample if want else None


def _counted(lines: Iterator[_Line]) -> tuple[int, _Line]:
    """How many lines there are, and the last one, without holding them."""
    ((count, last),) = deque(enumerate(lines, 1), maxlen=1)
    return count, last


def _gathered(lines: Iterator[_Line]) -> tuple[list[_Line], int]:
    """The lines of one sample, and where they end; of too many just the first, with a fault."""
    found: list[_Line] = []
    characters = 0
    for line in lines:
        found.append(line)
        characters += question_characters(line.question) if line.question else 0
        if len(found) > MAX_QUESTIONS or characters > MAX_QUESTION_CHARACTERS:
            rest, last = _counted(chain([line], lines))
            fault = BadSample(f"{len(found) + rest - 1} lines ask too much of one image")
            return [replace(found[0], fault=fault)], last.stop
    return found, found[-1].stop


def _slice(ordinal: int, file: File, first: int, stop: int, samples: int) -> Shard:
    return Shard(ordinal, f"{file.uri}#{first}-{stop}", stop - first, file.etag, samples, (file,))


def _sample(lines: list[_Line], position: int) -> Sample:
    """Some lines as a sample without its image."""
    key, fault = lines[0].image, lines[0].fault
    questions = tuple(line.question for line in lines if line.question is not None)
    return Sample(f"line {lines[0].number}" if key is None else key, position, None, questions, fault)


def _lines(uri: str, first: int, stop: int, storage: Storage) -> Iterator[_Line]:
    """The lines between two byte offsets; blank ones are passed over."""
    fs, path = storage.open(uri)
    with fs.open(path, "rb") as file:
        stream = io.BufferedReader(file, 1 << 20)  # an S3 file's own `readline` takes no limit
        stream.seek(first)
        position, number = first, 0
        while position < stop and (text := stream.readline(MAX_SIDECAR_BYTES + 1)):
            position += len(text) + _rest_of_line(stream, text)
            number += 1
            if text.strip():
                yield _parse(text, number, position)


def _rest_of_line(stream: BinaryIO, text: bytes) -> int:
    """Pass over what a line holds beyond `text`, however much; returns how many bytes that is."""
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
        if not isinstance(tree.get("image"), str):
            raise BadSample("the line names no image")
        name = tree.get("question_id")
        asked = tree["text"] if "text" in tree else tree.get("question")
        (question,) = parse_questions([{"question_id": name, "question": "" if asked is None else asked}])
    except DataFault as fault:
        return _Line(number, stop, fault=fault)
    return _Line(number, stop, tree["image"], question)
