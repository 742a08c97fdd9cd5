"""What every source is made of: a listing, shards, and samples with their questions."""

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from pipeline.errors import BadImage, BadQuestion, BadSample, ConfigError, DataFault
from pipeline.storage import File, Storage, canonical, list_files

IMAGE_SUFFIXES = ("jpg", "jpeg", "png", "webp")
MAX_IMAGE_BYTES = 256 << 20
MAX_SIDECAR_BYTES = 16 << 20

# Asked once for each sample, in order, just before its bytes would be read.
Wanted = Callable[[int], bool]


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
    return tuple(_question(item) for item in asked)


def _question(item: Any) -> Question:
    if isinstance(item, str):
        return Question("", item)
    if not isinstance(item, dict) or not isinstance(item.get("question", ""), str):
        raise BadSample("a question is neither text nor an object with a text `question`")
    name = item.get("question_id")
    return Question("" if name is None else str(name), item.get("question", ""))


def text_question(data: bytes) -> tuple[Question, ...]:
    """The question that a sample's .txt sidecar asks, if it is not blank."""
    try:
        text = data.decode("utf-8").strip()
    except UnicodeDecodeError:
        raise BadQuestion("the .txt sidecar is not UTF-8") from None
    return (Question("", text),) if text else ()


def read_image(root: str, path: str, storage: Storage) -> bytes:
    """The bytes of an image that a table names relative to `root`.

    Raises:
        BadSample: the path leads out of `root`.
        BadImage: there is no such file, it may not be read, or it is too large.
    """
    uri = path if "://" in path or path.startswith("/") else f"{root}/{path}"
    inside = canonical(uri, storage).startswith(canonical(root, storage).rstrip("/") + "/")
    if not inside or ".." in path.split("/"):
        raise BadSample(f"the image {path[:200]} is not below {root}")
    fs, place = storage.open(uri)
    try:
        data = bytes(fs.cat_file(place, start=0, end=MAX_IMAGE_BYTES + 1))
    except (FileNotFoundError, PermissionError, IsADirectoryError) as error:
        raise BadImage(f"cannot read the image {path[:200]}: {type(error).__name__}") from None
    if len(data) > MAX_IMAGE_BYTES:
        raise BadImage(f"the image {path[:200]} is too large: more than {MAX_IMAGE_BYTES} bytes")
    return data


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
