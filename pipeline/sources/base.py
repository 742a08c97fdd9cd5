"""What every source is made of: a listing, shards, and samples with their questions."""

import dataclasses
import errno
import json
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Protocol

from pipeline.storage.listing import File, list_files
from pipeline.storage.uris import Storage, canonical
from pipeline.support.errors import BadImage, BadQuestion, BadSample, ConfigError, DataFault

IMAGE_SUFFIXES = ("jpg", "jpeg", "png", "webp")
MAX_IMAGE_BYTES = 256 << 20
MAX_SIDECAR_BYTES = 4 << 20  # as Python's objects JSON takes some thirty times as much
MAX_QUESTIONS = 10_000
MAX_QUESTION_CHARACTERS = 1 << 20  # of one sample's questions and their names

# How many samples are read at a time where each has a file of its own, and how large they may be for that:
# together they take half of what a unit does.
AHEAD = 8
AHEAD_BYTES = 4 << 20


class Want(IntEnum):
    """What is wanted of a sample. Without its image it has the same key and the same questions."""

    NOTHING = 0
    ALL = 1
    QUESTIONS = 2  # its image is not read where the source can do without, and is empty then


# Asked once for each sample, in order, before its bytes are read: at most AHEAD samples before it is yielded.
Wanted = Callable[[int], Want]


@dataclass(frozen=True)
class Question:
    """One question as the source names it; `question_id` is "" where it has no name."""

    question_id: str
    text: str


@dataclass(frozen=True)
class Sample:
    """One image with its questions.

    `position` is how many bytes of its shard lie behind the sample's end. `fault` says what is wrong
    with the sample as a whole; its other fields are then as complete as they can be.
    """

    key: str
    position: int
    image: bytes | None = None
    questions: tuple[Question, ...] = ()
    fault: DataFault | None = None


@dataclass(frozen=True)
class Shard:
    """One line of the plan. `samples` limits how many are taken; `files` are a slice's own files."""

    shard: int
    uri: str
    size: int
    etag: str
    samples: int | None = None
    files: tuple[File, ...] = ()

    @property
    def own_files(self) -> tuple[File, ...]:
        """All files that the shard is made of."""
        return self.files or (File(self.uri, self.size, self.etag),)


class Source(Protocol):
    """A kind of input; an implementation is a frozen dataclass in a file of its own plus a YAML."""

    @property
    def path(self) -> str:
        """What the user named: a file, a folder or a glob."""

    def entries(self, storage: Storage) -> Iterator[File]:
        """The files to read, in the order of their URIs; raises ConfigError if there are none."""

    def shards(self, entries: Iterable[File], storage: Storage) -> Iterator[Shard]:
        """The entries as shards numbered from 0."""

    def samples(self, shard: Shard, storage: Storage, wanted: Wanted) -> Iterator[Sample | None]:
        """The shard's samples in order, None in the place of each that is not wanted.

        Raises ShardError once the rest of the shard cannot be read.
        """


def files_ending(path: str, suffixes: tuple[str, ...], storage: Storage) -> Iterator[File]:
    """The files at `path` whose names end so; ConfigError if there are none."""
    empty = True
    for file in list_files(path, storage):
        if file.uri.endswith(suffixes):
            empty = False
            yield file
    if empty:
        raise ConfigError(f"source.path: no {suffixes[0]} at {storage.redact(path)}")


def parse_object(data: bytes, what: str) -> dict[str, Any]:
    """A JSON object; BadSample, naming `what` it should have been, if it is none."""
    try:
        tree = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise BadSample(f"the {what} is not JSON: {str(error)[:200]}") from None
    if not isinstance(tree, dict):
        raise BadSample(f"the {what} is JSON but not an object: {type(tree).__name__}")
    return tree


def sidecar_questions(data: bytes) -> tuple[Question, ...]:
    """The questions that a sample's JSON sidecar asks: `question`, or `questions` as a list.

    Raises:
        BadSample: it is not a JSON object, or its questions are not of the documented form.
    """
    tree = parse_object(data, "sidecar")
    return parse_questions(tree.get("questions", [tree] if tree.get("question") is not None else []))


def parse_questions(asked: Any) -> tuple[Question, ...]:
    """Questions from a list of texts or of `{question_id, question}`; BadSample if it is neither."""
    if not isinstance(asked, list):
        raise BadSample(f"the questions are not a list: {type(asked).__name__}")
    if len(asked) > MAX_QUESTIONS:
        raise BadSample(f"{len(asked)} questions are more than {MAX_QUESTIONS}")
    questions = tuple(_question(item) for item in asked)
    characters = sum(map(question_characters, questions))
    if characters > MAX_QUESTION_CHARACTERS:
        raise BadSample(f"the questions are too long: {characters} characters")
    return questions


def question_characters(question: Question) -> int:
    """How much a question counts against MAX_QUESTION_CHARACTERS."""
    return len(question.question_id) + len(question.text)


def _question(item: Any) -> Question:
    if isinstance(item, str):
        return Question("", item)
    if not isinstance(item, dict) or not isinstance(item.get("question", ""), str):
        raise BadSample("a question is neither text nor an object with a text `question`")
    name = item.get("question_id")
    if isinstance(name, list | dict):
        raise BadSample("a question_id is neither text nor a number")
    return Question("" if name is None else str(name), item.get("question", ""))


def text_question(data: bytes) -> tuple[Question, ...]:
    """The question that a sample's .txt sidecar asks, if it is not blank."""
    try:
        text = data.decode("utf-8").strip()
    except UnicodeDecodeError:
        raise BadQuestion("the .txt sidecar is not UTF-8") from None
    return parse_questions([text]) if text else ()


# Reads a sample, or gives None if it takes more than so many bytes (None: then it reads it, however large).
Read = Callable[[int | None], Sample | None]


def read_ahead(items: Iterable[Read | Sample | None], root: str, storage: Storage) -> Iterator[Sample | None]:
    """The samples in order, whose files are below `root`; a store that answers slowly is read ahead.

    Threads run AHEAD `Read`s. Memory is bounded: what is too large is read when its turn comes, and what is
    no `Read` but at hand lets nothing queue behind it. What a `Read` raises is raised in its sample's place.
    """
    if "file" in storage.open(root)[0].protocol:  # threads would only be in each other's way
        yield from (item(None) if callable(item) else item for item in items)
        return
    waiting: deque[tuple[Read, Future[Sample | None]]] = deque()
    with ThreadPoolExecutor(AHEAD, "read") as threads:  # whoever leaves early waits for reads under way
        for item in items:
            if callable(item):
                waiting.append((item, threads.submit(item, AHEAD_BYTES)))
            while waiting and (len(waiting) == AHEAD or not callable(item)):
                yield _result(*waiting.popleft())
            if not callable(item):
                yield item
        while waiting:
            yield _result(*waiting.popleft())


def _result(read: Read, future: Future[Sample | None]) -> Sample | None:
    sample = future.result()
    return read(None) if sample is None else sample


def with_image(sample: Sample, root: str, path: str, storage: Storage, most: int | None) -> Sample | None:
    """A `Read`, its first four arguments given: the sample with its image, or with what is wrong with it."""
    try:
        data = read_image(root, path, storage, most)
    except DataFault as fault:
        return dataclasses.replace(sample, fault=fault)
    return None if data is None else dataclasses.replace(sample, image=data)


def read_image(root: str, path: str, storage: Storage, most: int | None) -> bytes | None:
    """The bytes of an image that a table names relative to `root`; None if they are more than `most`.

    Raises:
        BadSample: the path leads out of `root`.
        BadImage: there is no such file, it may not be read, or it is too large.
    """
    shown = storage.redact(path[:200])
    name = _below(canonical(root, storage).rstrip("/"), path)
    if name is None:
        raise BadSample(f"the image {shown} is not below {storage.redact(root)}")
    fs, folder = storage.open(root)
    end = MAX_IMAGE_BYTES if most is None else most
    try:
        data = bytes(fs.cat_file(f"{folder.rstrip('/')}/{name}", start=0, end=end + 1))
    except (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError, ValueError) as error:
        raise BadImage(f"cannot read the image {shown}: {type(error).__name__}") from None
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise BadImage(f"cannot read the image {shown}: its name is too long") from None
        if error.errno != errno.EINVAL:
            raise
        data = b""  # S3 has no range of an empty object
    if len(data) <= end:
        return data
    if most is not None:
        return None
    raise BadImage(f"the image {shown} is too large: more than {MAX_IMAGE_BYTES} bytes")


def _below(root: str, path: str) -> str | None:
    """What follows the URI `root` in an image's path: relative, absolute or a URI. None if it leads out.

    It is not left to fsspec, to which `a::b` and `x://y` mean more than a name.
    """
    uri = f"file://{path}" if path.startswith("/") else re.sub("^s3a://", "s3://", path)
    if uri.startswith(f"{root}/"):
        uri = uri.removeprefix(f"{root}/")
    elif "://" in uri:
        return None
    parts = [part for part in uri.split("/") if part != "."]
    return "/".join(parts) if any(parts) and ".." not in parts else None


def assemble(key: str, position: int, parts: dict[str, bytes | DataFault]) -> Sample:
    """A sample from its members by suffix; a member that could not be read stands as its fault."""
    images = [suffix for suffix in IMAGE_SUFFIXES if suffix in parts]
    image = parts[images[0]] if images else BadSample("the sample has no image (.jpg, .jpeg, .png, .webp)")
    if len(images) > 1:
        image = BadSample(f"the sample has {len(images)} images: {', '.join('.' + name for name in images)}")
    questions: tuple[Question, ...] = ()
    faults = [image] if isinstance(image, DataFault) else []
    for suffix, parse in (("json", sidecar_questions), ("txt", text_question)):
        data = parts.get(suffix)
        try:
            if isinstance(data, DataFault):
                raise data
            if data is not None and not questions:
                questions = parse(data)
        except DataFault as fault:
            faults.append(fault)
    return Sample(
        key=key,
        position=position,
        image=image if isinstance(image, bytes) else None,
        questions=questions,
        fault=faults[0] if faults else None,
    )
