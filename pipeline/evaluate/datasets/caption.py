"""Reads COCO's captions."""

from collections import defaultdict
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import ClassVar

from pipeline.evaluate import submission
from pipeline.evaluate.base import Answered, Metric, Reference
from pipeline.evaluate.datasets.official import WithImages
from pipeline.evaluate.files import json_items, official_file
from pipeline.evaluate.metrics import caption
from pipeline.evaluate.questions import Question
from pipeline.storage.uris import Storage
from pipeline.support.fields import free, require


@dataclass(frozen=True, kw_only=True)
class CocoCaption(WithImages):
    """Reads COCO captions (arXiv 1504.00325): every image of the annotation file is asked `prompt`.

    The question_id is the image's id. The rows of an output of another task, whose questions all have one
    id, are matched by the images' names. 64 tokens and the prompt are those of lmms-eval's published runs.
    """

    submits: ClassVar[str] = "COCO's JSON list of results"

    images: str = free("val2014")
    suffix: str = free("")
    max_new_tokens: int = free(64)
    annotations: str = free("annotations/captions_val2014.json")
    prompt: str = free("Provide a one-sentence caption for the provided image.")

    def __post_init__(self) -> None:
        super().__post_init__()
        require(bool(self.prompt.strip()), "dataset.prompt must not be empty")

    def read_questions(self, storage: Storage) -> Iterator[Question]:
        """See `Official.read_questions`."""
        captions: dict[int, list[str]] = defaultdict(list)
        with official_file(self.root, self.annotations, storage):
            for item in json_items(self.root, self.annotations, "annotations.item", storage):
                captions[item["image_id"]].append(item["caption"])
            for item in json_items(self.root, self.annotations, "images.item", storage):
                reference = Reference(str(item["id"]), item["file_name"], tuple(captions[item["id"]]))
                yield reference, self.prompt

    def metric(self, references: Collection[Reference]) -> Metric:
        """See `Dataset.metric`."""
        return caption.captions(references)

    def submission(self, rows: Iterator[Answered], storage: Storage) -> bytes:
        """See `Dataset.submission`: the results format of COCO's captioning server."""
        return submission.json_list(
            {"image_id": submission.official_id(row.question_id), "caption": row.prediction or ""}
            for row in rows
        )
