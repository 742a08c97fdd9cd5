"""Reads datasets of short answers: VQAv2, VizWiz, TextVQA and GQA."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from sys import intern
from typing import ClassVar

from pipeline.evaluate import submission
from pipeline.evaluate.base import UNANSWERABLE, Answered, Metric, Reference
from pipeline.evaluate.datasets.official import SHORT, WithImages
from pipeline.evaluate.files import json_items, json_pairs, official_file
from pipeline.evaluate.metrics import exact, vqa
from pipeline.evaluate.metrics.text import evalai_normal
from pipeline.evaluate.questions import Question
from pipeline.storage.uris import Storage
from pipeline.support.errors import ConfigError
from pipeline.support.fields import free


@dataclass(frozen=True, kw_only=True)
class VqaV2(WithImages):
    """Reads VQAv2 (arXiv 1612.00837): questions, and annotations where they are public.

    Annotations of the test splits are not public. An image's file is `COCO_<split>_<id, 12 digits>.jpg`, the
    split being the last part of `images`.

    Args:
        submission_questions: the official file whose every question a submission answers, with "" for those
            not asked, as the server demands; None: `questions`, but that of test2015 for test-dev2015.
    """

    submits: ClassVar[str] = "EvalAI's JSON list"

    images: str = free("val2014")
    questions: str = free("v2_OpenEnded_mscoco_val2014_questions.json")
    annotations: str | None = free("v2_mscoco_val2014_annotations.json")
    submission_questions: str | None = free(None)

    def read_questions(self, storage: Storage) -> Iterator[Question]:
        """See `Official.read_questions`."""
        answers = self._answers(storage)
        split = PurePosixPath(self.images).name
        with official_file(self.root, self.questions, storage):
            for item in json_items(self.root, self.questions, "questions.item", storage):
                name = str(item["question_id"])
                of_question, groups = answers.get(name, ((), ()))
                if self.annotations and not of_question:
                    raise ConfigError(f"{self.annotations} has no answers of question_id {name}")
                image = f"COCO_{split}_{item['image_id']:012d}.jpg"
                yield Reference(name, image, of_question, groups), item["question"]

    def _answers(self, storage: Storage) -> dict[str, tuple[tuple[str, ...], tuple[str, ...]]]:
        """Read the ten answers and the answer type by question; equal texts share memory."""
        by_question: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {}
        if self.annotations:
            with official_file(self.root, self.annotations, storage):
                for item in json_items(self.root, self.annotations, "annotations.item", storage):
                    answers = tuple(intern(answer["answer"]) for answer in item["answers"])
                    by_question[str(item["question_id"])] = answers, (intern(item["answer_type"]),)
        return by_question

    def metric(self, references: Collection[Reference]) -> Metric:
        """See `Dataset.metric`."""
        return vqa.vqa()

    def submission(self, rows: Iterator[Answered], storage: Storage) -> bytes:
        """See `Dataset.submission`: EvalAI's, as LLaVA's convert_vqav2_for_submission.py writes it."""
        answers = {row.question_id: row.prediction or "" for row in rows}
        name = self.submission_questions or self.questions.replace("test-dev2015", "test2015")
        with official_file(self.root, name, storage):
            numbers = [item["question_id"] for item in json_items(self.root, name, "questions.item", storage)]
        if strangers := answers.keys() - set(map(str, numbers)):
            raise ConfigError(f"dataset.submission_questions: {name} lacks question_id {min(strangers)}")
        return submission.json_list(
            {"question_id": number, "answer": evalai_normal(answers.get(str(number), ""))}
            for number in numbers
        )


@dataclass(frozen=True, kw_only=True)
class VizWiz(WithImages):
    """Reads VizWiz-VQA (arXiv 1802.08218): one JSON list, without answers in the test split.

    Questions are asked as LLaVA's question file has them: the first letter is a capital, the others are not.
    """

    submits: ClassVar[str] = "EvalAI's JSON list"

    images: str = free("val")
    suffix: str = free(
        f"\nWhen the provided information is insufficient, respond with 'Unanswerable'.{SHORT}"
    )
    annotations: str = free("val.json")

    def read_questions(self, storage: Storage) -> Iterator[Question]:
        """See `Official.read_questions`."""
        with official_file(self.root, self.annotations, storage):
            for item in json_items(self.root, self.annotations, "item", storage):
                answers = tuple(answer["answer"] for answer in item.get("answers", ()))
                groups = (item["answer_type"],) if answers else ()
                if answers and not item["answerable"] and UNANSWERABLE not in groups:
                    groups = (*groups, UNANSWERABLE)
                reference = Reference(item["image"], item["image"], answers, groups)
                yield reference, item["question"].capitalize()

    def metric(self, references: Collection[Reference]) -> Metric:
        """See `Dataset.metric`."""
        return vqa.vizwiz()

    def submission(self, rows: Iterator[Answered], storage: Storage) -> bytes:
        """See `Dataset.submission`: EvalAI's, as LLaVA's convert_vizwiz_for_submission.py writes it."""
        return submission.json_list(
            {"image": row.question_id, "answer": evalai_normal(row.prediction or "")} for row in rows
        )


@dataclass(frozen=True, kw_only=True)
class TextVqa(WithImages):
    """Reads TextVQA 0.5.1 (arXiv 1904.08920). `ocr`: the official file of OCR tokens for the prompt.

    Questions are asked as LLaVA's question file has them: the first letter is a capital, the others are not.
    """

    submits: ClassVar[str] = "EvalAI's JSON list"

    images: str = free("train_images")
    annotations: str = free("TextVQA_0.5.1_val.json")
    ocr: str | None = free(None)

    def read_questions(self, storage: Storage) -> Iterator[Question]:
        """See `Official.read_questions`."""
        tokens = self._tokens(storage)
        with official_file(self.root, self.annotations, storage):
            for item in json_items(self.root, self.annotations, "data.item", storage):
                text = item["question"].capitalize()
                if tokens:
                    text += f"\nReference OCR token: {', '.join(tokens.get(item['image_id'], ()))}"
                reference = Reference(
                    str(item["question_id"]), f"{item['image_id']}.jpg", tuple(item.get("answers", ()))
                )
                yield reference, text

    def _tokens(self, storage: Storage) -> dict[str, list[str]]:
        if self.ocr is None:
            return {}
        with official_file(self.root, self.ocr, storage):
            items = json_items(self.root, self.ocr, "data.item", storage)
            return {item["image_id"]: item["ocr_tokens"] for item in items}

    def metric(self, references: Collection[Reference]) -> Metric:
        """See `Dataset.metric`."""
        return vqa.textvqa()

    def submission(self, rows: Iterator[Answered], storage: Storage) -> bytes:
        """See `Dataset.submission`: EvalAI's, as lmms-eval writes it."""
        return submission.json_list(
            {
                "question_id": submission.official_id(row.question_id),
                "answer": evalai_normal(row.prediction or ""),
            }
            for row in rows
        )


@dataclass(frozen=True, kw_only=True)
class Gqa(WithImages):
    """Reads GQA (arXiv 1902.09506), test-dev balanced: an object of questions by their ids."""

    submits: ClassVar[str] = "the JSON list that GQA's eval.py reads"

    images: str = free("images")
    questions: str = free("testdev_balanced_questions.json")

    def read_questions(self, storage: Storage) -> Iterator[Question]:
        """See `Official.read_questions`."""
        with official_file(self.root, self.questions, storage):
            for name, item in json_pairs(self.root, self.questions, "", storage):
                kinds = item["types"]
                groups = (
                    "open" if kinds["structural"] == "query" else "binary",
                    intern(f"structural: {kinds['structural']}"),
                    intern(f"semantic: {kinds['semantic']}"),
                )
                yield Reference(name, f"{item['imageId']}.jpg", (item["answer"],), groups), item["question"]

    def metric(self, references: Collection[Reference]) -> Metric:
        """See `Dataset.metric`."""
        return exact.gqa()

    def submission(self, rows: Iterator[Answered], storage: Storage) -> bytes:
        """See `Dataset.submission`: GQA's, as LLaVA's convert_gqa_for_eval.py writes it."""
        return submission.json_list(
            {"questionId": row.question_id, "prediction": (row.prediction or "").strip().rstrip(".").lower()}
            for row in rows
        )
