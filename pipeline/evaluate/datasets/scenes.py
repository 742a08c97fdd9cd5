"""Reads the demo's scenes, whose right answers are in their sidecars."""

import json
import tarfile
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import ClassVar

from pipeline.demo.pictures import PICTURES, pictures
from pipeline.demo.scenes import CAPTION_PROMPT
from pipeline.evaluate.base import Answered, Metric, Reference
from pipeline.evaluate.files import official_file
from pipeline.evaluate.metrics.exact import CAPTION, scenes
from pipeline.sources.base import IMAGE_SUFFIXES, Sample, Source
from pipeline.sources.images import Images
from pipeline.sources.sidecars import sidecar_questions
from pipeline.sources.task import Task
from pipeline.sources.webdataset import WebDataset
from pipeline.storage.listing import list_files
from pipeline.storage.uris import Storage, canonical
from pipeline.support.errors import BadSample, ConfigError
from pipeline.support.fields import free, require

_MOST_QUESTIONS = 10_000


@dataclass(frozen=True, kw_only=True)
class Scenes:
    """Reads shards of `python -m pipeline.demo.scenes`, or a folder of pictures with such sidecars.

    Args:
        root: the folder; `demo:pictures` are those of `make demo`, whose photographs have no known answers.
        caption: whether a caption was asked for, as the first question of each picture.
        max_new_tokens: see `Dataset`.
    """

    joint: ClassVar[bool] = True
    submits: ClassVar[str] = ""

    root: str = free(PICTURES)
    caption: bool = free(True)
    max_new_tokens: int = free(64)

    def __post_init__(self) -> None:
        require(bool(self.root), "dataset.root must not be empty")
        require(self.max_new_tokens >= 1, "dataset.max_new_tokens must be at least 1")

    def references(self, storage: Storage) -> Iterator[Reference]:
        """See `Dataset.references`."""
        for key, sidecar in self._sidecars(storage):
            try:
                references = self._references_of(key, sidecar)
            except (BadSample, ValueError, KeyError, TypeError) as error:
                raise ConfigError(f"the sidecar of {storage.redact(key)}: {error!s:.200}") from None
            yield from references

    def _references_of(self, key: str, sidecar: bytes) -> list[Reference]:
        tree = json.loads(sidecar)
        truth: list[tuple[tuple[str, ...], str]] = []
        if self.caption:
            truth.append(((tree["caption"],) if "caption" in tree else (), CAPTION))
        for item in tree.get("questions", ()):
            item = item if isinstance(item, dict) else {}
            truth.append((tuple(item.get("answers", ())), item.get("kind", "")))
        sample = Sample(key, 0, questions=sidecar_questions(sidecar))
        questions = self.task().questions(sample, _MOST_QUESTIONS)
        return [
            Reference(question.question_id, key, answers, (kind,) if kind else ())
            for question, (answers, kind) in zip(questions, truth, strict=True)
        ]

    def _sidecars(self, storage: Storage) -> Iterator[tuple[str, bytes]]:
        """Read each picture's sidecar, with the picture's key in a source."""
        root = self._folder()
        names: dict[str, str] = {}
        with official_file(root, "", storage):
            uris = [file.uri for file in list_files(root, storage)]
        base = canonical(root, storage).rstrip("/") + "/"
        for uri in uris:
            stem, _, suffix = uri.rpartition(".")
            if suffix == "tar":
                yield from _of_tar(uri, storage)
            elif suffix in IMAGE_SUFFIXES:
                names[stem] = uri.removeprefix(base)
        for uri in uris:
            if uri.endswith(".json") and (key := names.get(uri.removesuffix(".json"))):
                fs, path = storage.open(uri)
                yield key, bytes(fs.cat_file(path))

    def _folder(self) -> str:
        return str(pictures()) if self.root == PICTURES else self.root

    def metric(self, references: Collection[Reference]) -> Metric:
        """See `Dataset.metric`."""
        return scenes()

    def submission(self, rows: Iterator[Answered], storage: Storage) -> bytes:
        """See `Dataset.submission`."""
        raise ConfigError("submission: Scenes has no submission format")

    def source(self, folder: str, storage: Storage) -> Source:
        """See `Dataset.source`: the scenes are a source as they are."""
        root = self._folder()
        tars = any(file.uri.endswith(".tar") for file in list_files(root, storage))
        return WebDataset(path=root) if tars else Images(path=root)

    def task(self) -> Task:
        """See `Dataset.task`."""
        return Task(prompts=[CAPTION_PROMPT] if self.caption else [], source_questions=True)


def _of_tar(uri: str, storage: Storage) -> Iterator[tuple[str, bytes]]:
    fs, path = storage.open(uri)
    try:
        with fs.open(path, "rb") as file, tarfile.open(fileobj=file, mode="r|") as tar:
            for member in tar:
                content = tar.extractfile(member) if member.name.endswith(".json") else None
                if content is not None:
                    yield member.name.removesuffix(".json"), content.read()
    except tarfile.TarError as error:
        raise ConfigError(f"{storage.redact(uri)}: {error}") from None
