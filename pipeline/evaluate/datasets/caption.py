"""Captions: COCO."""

from collections import defaultdict
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from pipeline.evaluate.base import Metric, Reference
from pipeline.evaluate.datasets.official import WithImages
from pipeline.evaluate.files import json_items, telling
from pipeline.evaluate.metrics import caption
from pipeline.evaluate.questions import Asked
from pipeline.storage.uris import Storage
from pipeline.support.fields import free, require


@dataclass(frozen=True, kw_only=True)
class CocoCaption(WithImages):
    """COCO captions (arXiv 1504.00325): every image of the annotation file is asked `prompt`.

    A question is called by the image's id. An output of another task, whose questions all have one name, is
    known by the images' names.
    """

    images: str = free("val2014")
    suffix: str = free("")
    annotations: str = free("annotations/captions_val2014.json")
    prompt: str = free("Provide a one-sentence caption for the provided image.")

    def __post_init__(self) -> None:
        super().__post_init__()
        require(bool(self.prompt.strip()), "dataset.prompt must not be empty")

    def asked(self, storage: Storage) -> Iterator[Asked]:
        """See `Official.asked`."""
        captions: dict[int, list[str]] = defaultdict(list)
        with telling(self.root, self.annotations, storage):
            for item in json_items(self.root, self.annotations, "annotations.item", storage):
                captions[item["image_id"]].append(item["caption"])
            for item in json_items(self.root, self.annotations, "images.item", storage):
                reference = Reference(str(item["id"]), item["file_name"], tuple(captions[item["id"]]))
                yield reference, self.prompt

    def metric(self, references: Collection[Reference]) -> Metric:
        """See `Dataset.metric`."""
        return caption.captions(references)
