"""Reads question files in LLaVA's layouts: JSON lines, one JSON array, or CSV; a record names an image."""

import functools
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import chain, groupby
from typing import ClassVar

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
from pipeline.sources.cells import MAX_PATH_CHARACTERS, image_or_path, is_inline, only_image
from pipeline.sources.questions import (
    MAX_QUESTION_CHARACTERS,
    MAX_QUESTIONS,
    Keys,
    conversation_id,
    conversation_questions,
    id_text,
    one_question,
    question_characters,
    several_questions,
)
from pipeline.sources.read_ahead import Read, read_ahead, with_image
from pipeline.sources.records import (
    CSV_SUFFIXES,
    JSON_SUFFIXES,
    Record,
    read_records,
    require_records,
)
from pipeline.storage.listing import File, file_at
from pipeline.storage.paths import parts_of
from pipeline.storage.uris import BLOCK_BYTES, Storage, canonical
from pipeline.support.census import PassedOver
from pipeline.support.errors import BadQuestion, BadSample, ConfigError, DataFault, ShardError
from pipeline.support.fields import counted, free, require

_IMAGE_KEYS = ("image", "images", "file_name")


@dataclass(frozen=True)
class _Line:
    """Holds one record: its image and questions, or their faults; `stop` is the byte offset of its end."""

    number: int
    stop: int
    image: str | bytes | None = None
    questions: tuple[Question, ...] = ()
    fault: DataFault | None = None
    question_fault: DataFault | None = None
    is_alone: bool = False

    @property
    def group(self) -> tuple[str | bytes | int | None, ...]:
        """A key that consecutive lines of one sample share: the image that they name."""
        return (None, self.number) if self.is_alone else (self.image,)

    @property
    def key(self) -> str:
        """The sample's name: the path of its image, or where the line is."""
        if self.image is None:
            return f"line {self.number}"
        is_path = isinstance(self.image, str) and not is_inline(self.image)
        return str(self.image) if is_path and len(self.image) <= MAX_PATH_CHARACTERS else f"byte {self.stop}"


@dataclass(frozen=True, kw_only=True)
class Jsonl(Source):
    """Reads JSONL, JSON arrays and CSV; consecutive records with the same image are one sample.

    A shard is a piece of some `slice_files` records. Images are relative to `image_root`, or to the file's
    folder; `sample_key` is the image as the record names it. A record is `{question_id, image, text}`, as in
    LLaVA's evaluation files; `{id, image, conversations}`, as in its training files, of which each human turn
    is asked by itself; or names other keys, see the fields.
    """

    rules: ClassVar[int] = 2
    image_root: str | None = free(None)
    slice_files: int = counted(4096)
    image_key: str | None = counted(None, neutral=True)
    question_key: str | None = counted(None, neutral=True)
    questions_key: str | None = counted(None, neutral=True)
    question_id_key: str | None = counted(None, neutral=True)

    def __post_init__(self) -> None:
        require(self.slice_files >= 1, "source.slice_files must be at least 1")

    def entries(self, storage: Storage) -> Iterator[File | PassedOver]:
        """See `Source.entries`; CSVs only if `path` names them: many a folder has some beside its JSON."""
        names_csv = any(part.lower().endswith((*CSV_SUFFIXES, "}")) for part in parts_of(self.path))
        suffixes = (*JSON_SUFFIXES, *CSV_SUFFIXES) if names_csv else JSON_SUFFIXES
        return files_ending(self, suffixes, storage)

    def shards(self, entries: Iterable[File], storage: Storage) -> Iterator[Shard]:
        """See `Source.shards`: pieces that end where a sample does."""
        ordinal = 0
        for file in entries:
            if self.listing is not None and not file.is_same(file_at(file.uri, storage)):
                name = storage.redact(file.uri)
                raise ConfigError(f"source.listing: {name} has changed since it was made, or is gone")
            first = start = lines = samples = 0
            shard = _piece(ordinal, file, 0, file.size, None)
            require_records(functools.partial(self.open_shard, shard, storage), file.uri, storage)
            broken: list[ShardError] = []
            all_lines = self._lines(shard, 0, file.size, storage, broken)
            for _, group in groupby(all_lines, key=lambda line: line.group):
                count, last = _count(group)
                if lines >= self.slice_files:
                    yield _piece(ordinal, file, first, start, samples)
                    ordinal, first, lines, samples = ordinal + 1, start, 0, 0
                lines, samples, start = lines + count, samples + 1, last.stop
            yield _piece(ordinal, file, first, file.size, None if broken else samples)
            ordinal += 1

    def samples(self, shard: Shard, storage: Storage, wanted: Wanted) -> Iterator[Sample | None]:
        """See `Source.samples`."""
        root = self.image_root or shard.uri.rpartition("/")[0]
        return read_ahead(self._reads(shard, root, storage, wanted), root, storage)

    def image_folder(self, shard: Shard, storage: Storage) -> str:
        """See `Source.image_folder`."""
        return canonical(self.image_root or shard.uri.rpartition("/")[0], storage).rstrip("/") + "/"

    def store_reads(self, totals: ReadTotals) -> tuple[float, float | None]:
        """See `Source.store_reads`: two HEADs a file, its text in blocks, and each image once."""
        gets = 2 * totals.complete_shards + totals.ranges(BLOCK_BYTES) + totals.samples
        return totals.source_bytes + totals.image_bytes, gets

    def _reads(
        self, shard: Shard, root: str, storage: Storage, wanted: Wanted
    ) -> Iterator[Read | Sample | None]:
        first, stop = map(int, shard.uri.rpartition("#")[2].split("-"))
        broken: list[ShardError] = []
        count = 0
        lines = self._lines(shard, first, stop, storage, broken)
        for index, (_, group) in enumerate(groupby(lines, key=lambda line: line.group)):
            count = index + 1
            of_sample, stop_of_sample = _gather_sample(group)
            want = wanted(index)
            yield self._item(of_sample, stop_of_sample - first, want, root, storage) if want else None
        if broken:
            raise broken[0]
        if shard.samples is not None and count < shard.samples:
            raise ShardError(f"it has {count} samples where the plan has {shard.samples}: start a new output")

    def _lines(
        self, shard: Shard, first: int, stop: int, storage: Storage, broken: list[ShardError]
    ) -> Iterator[_Line]:
        """Yield the records as lines; `broken` gets the error that ends them."""
        keys = Keys(self.question_key, self.questions_key, self.question_id_key)
        try:
            opening = functools.partial(self.open_shard, shard, storage)
            for record in read_records(opening, shard.own_files[0].uri, first, stop):
                yield _line(record, keys, self.image_key)
        except ShardError as error:
            broken.append(error)

    def _item(
        self, lines: list[_Line], position: int, want: Want, root: str, storage: Storage
    ) -> Read | Sample:
        """Make a sample of its lines, or its `Read` if the image is a file."""
        line = lines[0]
        questions = tuple(question for line in lines for question in line.questions)
        sample = Sample(line.key, position, None, questions, line.fault, line.question_fault, taken=(1, 0))
        if line.image is None or line.fault is not None:
            return sample
        if Want.IMAGE not in want:
            return replace(sample, image=b"")
        try:
            image = image_or_path(line.image)
        except DataFault as fault:
            return replace(sample, fault=fault)
        if isinstance(image, bytes):
            return replace(sample, image=image)
        return functools.partial(with_image, sample, root, image, storage, follow_links=self.follow_links)


def _count(lines: Iterator[_Line]) -> tuple[int, _Line]:
    """Count lines and return the last one, without holding them."""
    ((count, last),) = deque(enumerate(lines, 1), maxlen=1)
    return count, last


def _gather_sample(lines: Iterator[_Line]) -> tuple[list[_Line], int]:
    """Collect one sample's lines and their end in bytes; of too many lines the first alone, with a fault."""
    collected: list[_Line] = []
    count = characters = 0
    for line in lines:
        collected.append(line)
        count += max(1, len(line.questions))
        characters += sum(map(question_characters, line.questions))
        if count > MAX_QUESTIONS or characters > MAX_QUESTION_CHARACTERS:
            rest, last = _count(chain([line], lines))
            fault = BadSample(f"{len(collected) + rest - 1} lines ask too much of one image")
            return [replace(collected[0], fault=fault)], last.stop
    return collected, collected[-1].stop


def _line(record: Record, keys: Keys, image_key: str | None) -> _Line:
    number, stop, tree = record.number, record.stop, record.tree
    if tree is None:
        return _Line(number, stop, fault=record.fault, is_alone=True)
    try:
        image = only_image(_image_value(tree, image_key), "line")
    except DataFault as fault:
        return _Line(number, stop, fault=fault, is_alone=True)
    is_alone = image_key is None and not isinstance(tree.get("image"), str)
    try:
        return _Line(number, stop, image, _questions(tree, keys), is_alone=is_alone)
    except DataFault as fault:
        if is_alone or (keys == Keys() and _is_malformed(tree)):
            return _Line(number, stop, image, question_fault=fault, is_alone=True)
        return _Line(number, stop, image, (Question("", "", str(fault)),))


def _is_malformed(tree: dict[str, object]) -> bool:
    """Tell whether a line's one question is no text, or its id no name: it is then a sample of its own."""
    text = tree["text"] if "text" in tree else tree.get("question")
    return not isinstance(text, str | None) or isinstance(tree.get("question_id"), list | dict)


def _image_value(tree: dict[str, object], image_key: str | None) -> object:
    names = _IMAGE_KEYS if image_key is None else (image_key,)
    value = next((tree[name] for name in names if tree.get(name) is not None), None)
    if value is None or value == []:
        raise BadSample("the line names no image" + (f": it has no {image_key!r}" if image_key else ""))
    return value


def _questions(tree: dict[str, object], keys: Keys) -> tuple[Question, ...]:
    questions = one_question(tree, "line", keys, ("text", "question"))
    if questions is None:
        questions = several_questions(tree, "line", keys)
    turns = tree.get("conversations") or tree.get("messages")
    if questions is None and turns is not None and keys == Keys(question_id=keys.question_id):
        questions = conversation_questions(turns, conversation_id(tree, keys))
    if questions is None:
        return (Question(id_text(tree.get(keys.question_id or "question_id")), ""),)
    if not questions:
        raise BadQuestion("the line has no question")
    return questions


def _piece(ordinal: int, file: File, first: int, stop: int, samples: int | None) -> Shard:
    return Shard(ordinal, f"{file.uri}#{first}-{stop}", stop - first, file.etag, samples, (file,))
