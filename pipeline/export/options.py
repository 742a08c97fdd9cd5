"""Configures `trimline export`."""

from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from pipeline.support.fields import free, require
from pipeline.support.schema import PREDICTIONS, STATUSES

# The formats that are one file; the others are folders.
ONE_FILE = ("llava", "llava_answers")
FORMATS = (*ONE_FILE, "webdataset", "parquet")
QUESTION_IDS = ("number", "text")
MEMBERS = ("answers", "all")


@dataclass(frozen=True, kw_only=True)
class Export:
    """Configures `trimline export`.

    Args:
        output: of `annotate`, or an arm of `compare`.
        to: a file for llava and llava_answers, an empty folder for the others; or a URI.
        statuses: whose rows.
        images: an empty folder or a URI to write the images to; llava.
        question_ids: "number": as numbers if all are; "text": as text; llava_answers.
        members: "answers": the image and its answers; "all": what the source has beside the image, too;
            webdataset.
        partition_by: columns that become folders; parquet.
        source: where the images lie now, if not where they did; llava and webdataset.
    """

    output: str = free()
    to: str = free()
    format: str = free("llava")
    statuses: list[str] = free(default_factory=lambda: ["ok"])
    images: str | None = free(None)
    question_ids: str = free("number")
    members: str = free("answers")
    partition_by: list[str] = free(default_factory=list)
    source: Any = free(None)  # as `source.path`

    def __post_init__(self) -> None:
        require(self.format in FORMATS, f"format: {self.format!r} is none of {', '.join(FORMATS)}")
        require(bool(self.statuses), f"statuses: name at least one of {', '.join(STATUSES)}")
        for status in self.statuses:
            require(status in STATUSES, f"statuses: {status!r} is none of {', '.join(STATUSES)}")
        for name in self.partition_by:
            require(name in PREDICTIONS.names, f"partition_by: there is no column {name!r}")
            require(
                not pa.types.is_binary(PREDICTIONS.field(name).type),
                f"partition_by: {name} holds bytes, which are no name of a folder",
            )
        require(
            self.question_ids in QUESTION_IDS,
            f"question_ids: {self.question_ids!r} is none of {', '.join(QUESTION_IDS)}",
        )
        require(self.members in MEMBERS, f"members: {self.members!r} is none of {', '.join(MEMBERS)}")
        for name, value, format in (
            ("partition_by", self.partition_by, "parquet"),
            ("images", self.images is not None, "llava"),
            ("question_ids", self.question_ids != "number", "llava_answers"),
            ("members", self.members != "answers", "webdataset"),
        ):
            require(not value or self.format == format, f"{name} needs format={format}")
        require(
            self.format != "llava" or set(self.statuses) <= {"ok"},
            "statuses: format=llava takes ok alone, since other rows have no answer to train on",
        )
