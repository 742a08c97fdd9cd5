"""Reads multiple-choice datasets: ScienceQA-IMG, SEED-Bench and MMBench."""

import base64
import hashlib
import tempfile
from collections import defaultdict
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from string import ascii_uppercase
from typing import ClassVar

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.evaluate import submission
from pipeline.evaluate.base import Answered, Metric, Reference
from pipeline.evaluate.datasets.official import LETTER, Official, WithImages, with_choices
from pipeline.evaluate.files import json_items, json_pairs, official_file, table_rows
from pipeline.evaluate.metrics import choice
from pipeline.evaluate.questions import Question, is_written, write_once
from pipeline.sources.base import Source
from pipeline.sources.parquet import Parquet
from pipeline.storage.uris import Storage
from pipeline.support.errors import ConfigError
from pipeline.support.fields import free, require
from pipeline.support.schema import QUESTION

KINDS = ("image", "video")
# What pandas 2 reads as a missing value, in a cell that holds nothing else.
_PANDAS_MISSING = {
    *("", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN"),
    *("<NA>", "N/A", "NA", "NULL", "NaN", "None", "n/a", "nan", "null"),
}
_NOT_SUBMITTED = ("hint", "category", "source", "image", "comment", "l2-category")
_PREDICTION_PLACE = 6


@dataclass(frozen=True, kw_only=True)
class ScienceQaImg(WithImages):
    """Reads ScienceQA (arXiv 2209.09513): the questions of a split that have an image.

    Two blanks are asked as one, as in LLaVA's convert_sqa_to_llava_base_prompt.py.
    """

    images: str = free("images/test")
    suffix: str = free(LETTER)
    max_new_tokens: int = free(1024)
    problems: str = free("problems.json")
    splits: str = free("pid_splits.json")
    split: str = free("test")

    def read_questions(self, storage: Storage) -> Iterator[Question]:
        """See `Official.read_questions`."""
        with official_file(self.root, self.splits, storage):
            chosen = {str(name) for name in json_items(self.root, self.splits, f"{self.split}.item", storage)}
        with official_file(self.root, self.problems, storage):
            for name, item in json_pairs(self.root, self.problems, "", storage):
                if name not in chosen or not item["image"]:
                    continue
                hint = item["hint"].strip()
                text = with_choices(
                    f"Context: {hint}\n{item['question']}" if hint else item["question"], item["choices"]
                )
                reference = Reference(
                    name,
                    f"{name}/{item['image']}",
                    (ascii_uppercase[item["answer"]],),
                    (item["subject"],),
                    choices=tuple(item["choices"]),
                )
                yield reference, text.replace("  ", " ")

    def metric(self, references: Collection[Reference]) -> Metric:
        """See `Dataset.metric`."""
        return choice.scienceqa()


@dataclass(frozen=True, kw_only=True)
class SeedBench(Official):
    """Reads SEED-Bench (arXiv 2307.16125): images, and LLaVA's middle frames of videos."""

    submits: ClassVar[str] = "JSONL for SEED-Bench's leaderboard"

    suffix: str = free(LETTER)
    questions: str = free("SEED-Bench.json")
    image_folder: str = free("SEED-Bench-image")
    frame_folder: str = free("SEED-Bench-video-image")
    kinds: list[str] = free(default_factory=lambda: list(KINDS))

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            bool(self.kinds) and set(self.kinds) <= set(KINDS),
            f"dataset.kinds must be one or more of {list(KINDS)}",
        )

    def read_questions(self, storage: Storage) -> Iterator[Question]:
        """See `Official.read_questions`."""
        with official_file(self.root, self.questions, storage):
            names = {
                number: name
                for name, number in json_pairs(self.root, self.questions, "question_type", storage)
            }
            for item in json_items(self.root, self.questions, "questions.item", storage):
                kind, number = item["data_type"], item["question_type_id"]
                if kind not in self.kinds:
                    continue
                image = f"{self.image_folder}/{item['data_id']}"
                if kind == "video":
                    image = f"{self.frame_folder}/{number}_{item['question_id']}.png"
                choices = tuple(str(item[f"choice_{letter}"]) for letter in "abcd")
                reference = Reference(
                    str(item["question_id"]),
                    image,
                    (item["answer"],),
                    (kind, names[number]),
                    choices=choices,
                )
                yield reference, with_choices(item["question"], choices)

    def metric(self, references: Collection[Reference]) -> Metric:
        """See `Dataset.metric`."""
        return choice.seed_bench()

    def submission(self, rows: Iterator[Answered], storage: Storage) -> bytes:
        """See `Dataset.submission`: as LLaVA's convert_seed_for_submission.py writes it."""
        return submission.json_lines(
            {"question_id": row.question_id, "prediction": row.prediction or ""} for row in rows
        )


@dataclass(frozen=True, kw_only=True)
class MmBench(Official):
    """Reads MMBench (arXiv 2307.06281): a TSV that holds the images as base64.

    A row whose index is 1,000,000 times n above another's is that question with its choices rotated n times:
    together they are one circle, and here the questions of one sample. An image's cell may hold the index of
    another row instead, whose image it shares.
    """

    submits: ClassVar[str] = "an xlsx file, which needs openpyxl,"

    suffix: str = free(LETTER)
    max_new_tokens: int = free(1024)
    table: str = free("mmbench_dev_20230712.tsv")

    def read_questions(self, storage: Storage) -> Iterator[Question]:
        """See `Official.read_questions`."""
        with official_file(self.root, self.table, storage):
            for row in table_rows(self.root, self.table, storage):
                index = int(row["index"])
                circle = str(index % choice.CIRCLE)
                choices = _choices(row)
                question = (
                    f"{row['hint']}\n{row['question']}" if _has_content(row.get("hint")) else row["question"]
                )
                answer = row.get("answer") or ""
                reference = Reference(
                    str(index),
                    circle,
                    (answer,) if _has_content(answer) else (),
                    tuple(row[name] for name in ("l2-category", "category") if _has_content(row.get(name))),
                    unit=circle,
                    choices=choices,
                )
                yield reference, with_choices(question, choices)

    def metric(self, references: Collection[Reference]) -> Metric:
        """See `Dataset.metric`."""
        return choice.mmbench()

    def submission(self, rows: Iterator[Answered], storage: Storage) -> bytes:
        """See `Dataset.submission`: xlsx, as LLaVA's convert_mmbench_for_submission.py writes it.

        It has every row of the table, also those that were not asked.
        """
        predictions = {row.question_id: row.prediction or "" for row in rows}
        with official_file(self.root, self.table, storage):
            return submission.workbook(_sheet(table_rows(self.root, self.table, storage), predictions))

    def source(self, folder: str, storage: Storage) -> Source:
        """See `Dataset.source`: a Parquet file of the images, with the questions of each circle."""
        with official_file(self.root, self.table, storage) as table:
            fs, path = storage.open(table)
            with fs.open(path, "rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()[:16]
            uri = f"{folder.rstrip('/')}/{PurePosixPath(self.table).stem}-{digest}.parquet"
            if not is_written(uri, storage):
                with tempfile.NamedTemporaryFile() as spool:
                    self._write(spool.name, storage)
                    write_once(uri, spool.name, storage)
        return Parquet(path=uri, image_column="image", questions_column="questions", key_column="key")

    def _write(self, file: str, storage: Storage) -> None:
        questions: dict[str, list[dict[str, str]]] = defaultdict(list)
        for reference, text in self.read_questions(storage):
            questions[reference.unit].append({"question_id": reference.question_id, "question": text})
        circles_of = self._circles_of_images(storage)
        schema = pa.schema(
            [("key", pa.string()), ("image", pa.large_binary()), ("questions", pa.list_(QUESTION))]
        )
        with pq.ParquetWriter(file, schema, compression="none") as writer:
            for row in table_rows(self.root, self.table, storage):
                for circle in circles_of.get(row["index"], ()):
                    image = base64.b64decode(row["image"], validate=True)
                    sample = {"key": circle, "image": image, "questions": questions[circle]}
                    writer.write_table(pa.Table.from_pylist([sample], schema=schema))

    def _circles_of_images(self, storage: Storage) -> dict[str, list[str]]:
        """Map each row with an image to the circles that use it."""
        linked: dict[str, str | None] = {}
        for row in table_rows(self.root, self.table, storage):
            linked[row["index"]] = row["image"] if row["image"].isdecimal() else None
        circles: dict[str, list[str]] = defaultdict(list)
        for index in linked:
            if int(index) < choice.CIRCLE:
                holder = linked[index] or index
                if linked.get(holder, holder) is not None:
                    raise ConfigError(
                        f"{self.table}: the image of row {index} is in row {holder}, which has none"
                    )
                circles[holder].append(index)
        return circles


def _sheet(table: Iterator[dict[str, str]], predictions: dict[str, str]) -> Iterator[list[object]]:
    """Yield the names of the columns, then each row of a table with its prediction."""
    columns: list[str] = []
    for row in table:
        if not columns:
            columns = [name for name in row if name not in _NOT_SUBMITTED]
            columns.insert(_PREDICTION_PLACE, "prediction")
            yield list(columns)
        filled = {name: cell if _has_content(cell) else None for name, cell in row.items()}
        index = int(row["index"])
        yield [
            {"index": index, "prediction": predictions.get(str(index))}.get(name, filled.get(name))
            for name in columns
        ]


def _choices(row: dict[str, str]) -> tuple[str, ...]:
    """Collect the options up to the first that is missing."""
    choices = []
    for letter in "ABCD":
        if not _has_content(row.get(letter)):
            break
        choices.append(row[letter])
    return tuple(choices)


def _has_content(cell: str | None) -> bool:
    """Tell whether LLaVA and VLMEvalKit see a cell as filled: a blank is, `NA` is not."""
    return cell is not None and cell not in _PANDAS_MISSING and cell.lower() not in ("nan", "none")
