"""Provides the base classes of datasets that read official files."""

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import ClassVar

from pipeline.evaluate.base import Answered, Metric, Reference
from pipeline.evaluate.questions import Question, jsonl_source
from pipeline.sources.base import Source
from pipeline.sources.task import Task
from pipeline.storage.uris import Storage, canonical
from pipeline.support.errors import ConfigError
from pipeline.support.fields import free, require

SHORT = "\nAnswer the question using a single word or phrase."
LETTER = "\nAnswer with the option's letter from the given choices directly."


@dataclass(frozen=True, kw_only=True)
class Official(ABC):
    """Reads questions and images from files below `root`; a `sample_key` is an image's path in `image_root`.

    Args:
        root: the folder, local or a URI, with the official files; the other keys hold their names.
        suffix: appended to each question; LLaVA-1.5's words (arXiv 2310.03744, appendix) by default.
        max_new_tokens: the length of answers in LLaVA's published runs: 128 by model_vqa_loader.py, 1024 by
            model_vqa.py, model_vqa_science.py and model_vqa_mmbench.py.
    """

    joint: ClassVar[bool] = False
    submits: ClassVar[str] = ""

    root: str = free()
    suffix: str = free(SHORT)
    max_new_tokens: int = free(128)

    def __post_init__(self) -> None:
        require(bool(self.root), "dataset.root must not be empty")
        require(self.max_new_tokens >= 1, "dataset.max_new_tokens must be at least 1")

    @property
    def image_root(self) -> str:
        """The folder to which the images' paths are relative."""
        return self.root.rstrip("/")

    @abstractmethod
    def read_questions(self, storage: Storage) -> Iterator[Question]:
        """Read every reference with the question to ask, in the order of the files."""

    def references(self, storage: Storage) -> Iterator[Reference]:
        """See `Dataset.references`."""
        return (reference for reference, _ in self.read_questions(storage))

    def metric(self, references: Collection[Reference]) -> Metric | None:
        """See `Dataset.metric`."""
        return None

    def submission(self, rows: Iterator[Answered], storage: Storage) -> bytes:
        """See `Dataset.submission`."""
        raise ConfigError(f"submission: {type(self).__name__} has no submission format")

    def source(self, folder: str, storage: Storage) -> Source:
        """See `Dataset.source`: LLaVA's JSONL."""
        images = canonical(self.image_root, storage)
        return jsonl_source(
            type(self).__name__.lower(), self.read_questions(storage), images, folder, storage
        )

    def task(self) -> Task:
        """See `Dataset.task`."""
        return Task(source_questions=True, suffix=self.suffix)


@dataclass(frozen=True, kw_only=True)
class WithImages(Official):
    """Reads a dataset whose images lie in the folder `images` below `root`."""

    images: str = free()

    @property
    def image_root(self) -> str:
        """The folder to which the images' paths are relative."""
        return f"{self.root.rstrip('/')}/{self.images}"


def with_choices(question: str, choices: Collection[str]) -> str:
    """Format a multiple-choice question as LLaVA-1.5 asks it: an option a line, after its letter."""
    lettered = (f"{letter}. {choice}" for letter, choice in zip("ABCDEFGHIJ", choices, strict=False))
    return "\n".join((question, *lettered))
