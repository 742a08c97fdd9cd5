"""Reads LLaVA-Bench-in-the-Wild and MM-Vet, whose answers are exported for a judge and not scored."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from pipeline.evaluate import submission
from pipeline.evaluate.base import Answered, Reference
from pipeline.evaluate.datasets.official import WithImages
from pipeline.evaluate.files import json_pairs, jsonl_items, official_file
from pipeline.evaluate.questions import Question
from pipeline.storage.uris import Storage
from pipeline.support.fields import free


@dataclass(frozen=True, kw_only=True)
class LlavaBench(WithImages):
    """Reads LLaVA-Bench-in-the-Wild (arXiv 2304.08485); eval_gpt_review_bench.py reads the export."""

    submits: ClassVar[str] = "JSONL for eval_gpt_review_bench.py"

    images: str = free("images")
    suffix: str = free("")
    max_new_tokens: int = free(1024)
    questions: str = free("questions.jsonl")

    def read_questions(self, storage: Storage) -> Iterator[Question]:
        """See `Official.read_questions`."""
        with official_file(self.root, self.questions, storage):
            for item in jsonl_items(self.root, self.questions, storage):
                yield (
                    Reference(str(item["question_id"]), item["image"], (), (item["category"],)),
                    item["text"],
                )

    def submission(self, rows: Iterator[Answered], storage: Storage) -> bytes:
        """See `Dataset.submission`: JSONL as LLaVA's model_vqa.py writes it; `answer_id` is the row's key.

        The judge's script pairs its lines with those of questions.jsonl, so it has their order.
        """
        return submission.json_lines(
            {
                "question_id": submission.official_id(row.question_id),
                "prompt": row.question,
                "text": row.prediction or "",
                "answer_id": row.key,
                "model_id": row.model,
                "metadata": {},
            }
            for row in rows
        )


@dataclass(frozen=True, kw_only=True)
class MmVet(WithImages):
    """Reads MM-Vet (arXiv 2308.02490); its evaluator reads an object of answers by question."""

    submits: ClassVar[str] = "the JSON object that MM-Vet's evaluator reads"

    images: str = free("images")
    suffix: str = free("")
    max_new_tokens: int = free(1024)
    questions: str = free("mm-vet.json")

    def read_questions(self, storage: Storage) -> Iterator[Question]:
        """See `Official.read_questions`."""
        with official_file(self.root, self.questions, storage):
            for name, item in json_pairs(self.root, self.questions, "", storage):
                yield Reference(name, item["imagename"], (), tuple(item["capability"])), item["question"]

    def submission(self, rows: Iterator[Answered], storage: Storage) -> bytes:
        """See `Dataset.submission`."""
        return submission.json_object((row.question_id, row.prediction or "") for row in rows)
