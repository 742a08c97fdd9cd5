"""Reads datasets whose answers are yes or no: POPE and MME."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath

from pipeline.evaluate.base import Metric, Reference
from pipeline.evaluate.datasets.official import Official, WithImages
from pipeline.evaluate.files import jsonl_items, official_file, open_text
from pipeline.evaluate.metrics import yes_no
from pipeline.evaluate.questions import Question
from pipeline.sources.base import IMAGE_SUFFIXES
from pipeline.storage.listing import list_files
from pipeline.storage.uris import Storage, canonical
from pipeline.support.fields import free, require

ANSWERS = ("yes", "no")
SUBTASKS = (*yes_no.PERCEPTION, *yes_no.COGNITION)
_MME_ENDING = "Please answer yes or no."


@dataclass(frozen=True, kw_only=True)
class Pope(WithImages):
    """Reads POPE (arXiv 2305.10355): a JSONL for each way to choose the absent objects.

    The ids of each file begin with 1: the question_id here is `<category>/<question_id>`.
    """

    images: str = free("val2014")
    questions: str = free("coco/coco_pope_{category}.json")
    categories: list[str] = free(default_factory=lambda: ["random", "popular", "adversarial"])

    def __post_init__(self) -> None:
        super().__post_init__()
        require(bool(self.categories), "dataset.categories must not be empty")
        require("{category}" in self.questions, "dataset.questions must hold {category}")

    def read_questions(self, storage: Storage) -> Iterator[Question]:
        """See `Official.read_questions`."""
        for category in self.categories:
            name = self.questions.replace("{category}", category)
            with official_file(self.root, name, storage):
                for item in jsonl_items(self.root, name, storage):
                    label = _answer(item["label"], f"question_id {item['question_id']}")
                    reference = Reference(
                        f"{category}/{item['question_id']}", item["image"], (label,), (category,)
                    )
                    yield reference, item["text"]

    def metric(self, references: Collection[Reference]) -> Metric:
        """See `Dataset.metric`."""
        return yes_no.pope()


@dataclass(frozen=True, kw_only=True)
class Mme(Official):
    """Reads MME (arXiv 2306.13394): folders of subtasks, each image with a text of its two questions.

    A line of the text is `question <tab> answer`. In some subtasks images and texts lie together, in others
    in `images/` and `questions_answers_YN/`. The question_id is `<subtask>/<image's stem>#<line>`. `suffix`
    replaces the question's `Please answer yes or no.`, as in LLaVA-1.5.
    """

    def read_questions(self, storage: Storage) -> Iterator[Question]:
        """See `Official.read_questions`."""
        base = canonical(self.root, storage).rstrip("/")
        with official_file(self.root, "", storage):
            names = [file.uri.removeprefix(f"{base}/") for file in list_files(self.root, storage)]
        paths = [PurePosixPath(name) for name in names if name.split("/")[0] in SUBTASKS]
        images = {_named(path): path for path in paths if path.suffix.lower()[1:] in IMAGE_SUFFIXES}
        for path in (path for path in paths if path.suffix == ".txt"):
            with official_file(self.root, str(path), storage) as uri:
                subtask, stem = _named(path)
                if (subtask, stem) not in images:
                    raise ValueError("there is no image of that name")
                with open_text(uri, storage) as file:
                    lines = [line.strip().split("\t") for line in file if line.strip()]
                if [len(line) for line in lines] != [2, 2]:
                    raise ValueError("it should hold two lines of a question, a tab and an answer")
                for number, (question, answer) in enumerate(lines, 1):
                    reference = Reference(
                        f"{subtask}/{stem}#{number}",
                        str(images[subtask, stem]),
                        (_answer(answer.lower(), f"line {number}"),),
                        (subtask,),
                        unit=f"{subtask}/{stem}",
                    )
                    yield reference, question.strip().removesuffix(_MME_ENDING).rstrip()

    def metric(self, references: Collection[Reference]) -> Metric:
        """See `Dataset.metric`."""
        return yes_no.mme()


def _named(path: PurePosixPath) -> tuple[str, str]:
    return path.parts[0], path.stem


def _answer(text: str, where: str) -> str:
    if text not in ANSWERS:
        raise ValueError(f"{where}: the answer is {text!r}, neither yes nor no")
    return text
