"""Writes finished answers in the formats that training and other tools read.

llava       one line of JSON a sample, a turn for each question (LLaVA's training data, haotian-liu/LLaVA,
            docs/Finetune_Custom_Data.md; one JSON object a line in the place of one list)
webdataset  a tar a shard: the image as it came, its answers as .json and, if it has just one, as .txt
parquet     the rows as they are, in folders by the values of some columns
"""

import io
import json
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import groupby, islice
from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from pyarrow.fs import FSSpecHandler, PyFileSystem

from pipeline.output.layout import DATA
from pipeline.output.opened import Output, Questions, open_output
from pipeline.output.plan import Plan
from pipeline.sources.base import Sample, Shard, Want, samples_of
from pipeline.storage.names import shown
from pipeline.storage.uris import Storage, list_names, put_atomic
from pipeline.support.errors import ConfigError, RunError, ShardError
from pipeline.support.fields import free, require
from pipeline.support.schema import PREDICTIONS, STATUSES

FORMATS = ("llava", "webdataset", "parquet")
Rows = list[dict[str, Any]]  # rows of PREDICTIONS


@dataclass(frozen=True, kw_only=True)
class Export:
    """Configures `trimline export`.

    Args:
        output: of `annotate`, or an arm of `compare`.
        to: a file for llava, an empty folder for the others; or a URI.
        statuses: whose rows.
        partition_by: columns that become folders; parquet.
        source: where the images lie now, if not where they did; webdataset.
    """

    output: str = free()
    to: str = free()
    format: str = free("llava")
    statuses: list[str] = free(default_factory=lambda: ["ok"])
    partition_by: list[str] = free(default_factory=list)
    source: Any = free(None)  # as `source.path`

    def __post_init__(self) -> None:
        require(self.format in FORMATS, f"format: {self.format!r} is none of {FORMATS}")
        for status in self.statuses:
            require(status in STATUSES, f"statuses: {status!r} is none of {STATUSES}")
        for name in self.partition_by:
            require(name in PREDICTIONS.names, f"partition_by: there is no column {name!r}")
        require(not self.partition_by or self.format == "parquet", "partition_by needs format=parquet")


@dataclass(frozen=True)
class _Answers:
    """Holds a finished output and the options of its export."""

    options: Export
    output: Output
    reading: Storage

    @property
    def plan(self) -> Plan:
        return self.output.plan

    @property
    def storage(self) -> Storage:
        return self.output.storage

    def tables(self, shard: int) -> Iterator[pa.Table]:
        """Read the chosen rows of a shard's units, in order."""
        fs, path = self.storage.open(self.output.folder)
        for unit in self.output.finished.units(shard):
            with fs.open(f"{path}/{DATA}/{unit.file_name}", "rb") as file:
                table = pq.read_table(file, use_threads=False)
            yield table.filter(pa.compute.is_in(table["status"], pa.array(self.options.statuses)))

    def samples(self, shard: int) -> Iterator[tuple[int, Rows]]:
        """Read each sample's number with its chosen rows."""
        for table in self.tables(shard):
            for number, rows in groupby(table.to_pylist(), key=lambda row: int(row["sample"])):
                yield number, list(rows)


def export(options: Export, storage: Storage, reading: Storage | None = None) -> int:
    """Write the export; returns the number of rows in it.

    Args:
        storage: how to reach the output and `to`.
        reading: how to reach the source; None: as the output.

    Raises:
        ConfigError: there is no finished output, or `to` holds something.
        RunError: the source's images cannot be read again.
    """
    answers = _Answers(options, open_output(options.output, storage).require_finished(), reading or storage)
    _require_free(options, storage)
    write: Callable[[_Answers], int] = {"llava": _llava, "webdataset": _webdataset, "parquet": _partitioned}[
        options.format
    ]
    return write(answers)


def _require_free(options: Export, storage: Storage) -> None:
    fs, place = storage.open(options.to)
    with storage.reaching("to", options.to):
        taken = fs.isfile(place) if options.format == "llava" else next(list_names(fs, place), None)
    if taken:
        raise ConfigError(f"to: {storage.redact(options.to)} exists already")


def _llava(answers: _Answers) -> int:
    count = 0
    with tempfile.NamedTemporaryFile("w", encoding="utf-8") as file:
        for shard in range(len(answers.plan)):
            for _, rows in answers.samples(shard):
                file.write(json.dumps(_conversation(rows), ensure_ascii=False) + "\n")
                count += len(rows)
        file.flush()
        put_atomic(*answers.storage.open(answers.options.to), file.name)
    return count


def _conversation(rows: Rows) -> dict[str, object]:
    turns = []
    for number, row in enumerate(rows):
        question = f"<image>\n{row['question']}" if number == 0 else row["question"]
        turns += [{"from": "human", "value": question}, {"from": "gpt", "value": row["prediction"]}]
    return {"id": rows[0]["key"], "image": rows[0]["sample_key"], "conversations": turns}


def _partitioned(answers: _Answers) -> int:
    fs, place = answers.storage.open(answers.options.to)
    count = 0

    def batches() -> Iterator[pa.RecordBatch]:
        nonlocal count
        for shard in range(len(answers.plan)):
            for table in answers.tables(shard):
                count += table.num_rows
                yield from table.cast(PREDICTIONS).to_batches()

    ds.write_dataset(
        batches(),
        place,
        schema=PREDICTIONS,
        format="parquet",
        filesystem=PyFileSystem(FSSpecHandler(fs)),
        partitioning=list(answers.options.partition_by) or None,
        partitioning_flavor="hive" if answers.options.partition_by else None,
        use_threads=False,
    )
    return count


def _webdataset(answers: _Answers) -> int:
    options, storage = answers.options, answers.storage
    questions = answers.output.questions(options.source, answers.reading)
    fs, place = storage.open(options.to)
    count = 0
    for shard in answers.plan.shards(storage):
        used: set[str] = set()
        with tempfile.NamedTemporaryFile() as file:
            with tarfile.open(fileobj=file, mode="w") as tar:
                for sample, rows in _with_images(questions, shard, answers):
                    key = _free_key(sample.key, rows[0]["key"], used)
                    for name, data in _members(key, sample, rows):
                        info = tarfile.TarInfo(name)
                        info.size = len(data)
                        tar.addfile(info, io.BytesIO(data))
                    count += len(rows)
            file.flush()
            put_atomic(fs, f"{place}/{shard.shard:06d}.tar", file.name)
    return count


def _with_images(questions: Questions, shard: Shard, answers: _Answers) -> Iterator[tuple[Sample, Rows]]:
    rows = dict(answers.samples(shard.shard))
    wanted = lambda number: Want.ALL if number in rows else Want.NOTHING  # noqa: E731
    samples = samples_of(questions.source, questions.moved(shard), questions.reading, wanted)
    try:
        for number, sample in enumerate(islice(samples, shard.samples)):
            if number not in rows:
                continue
            if sample is None or sample.image is None:
                raise RunError(f"{rows[number][0]['key']}: its image is no longer in {shard.uri}")
            yield sample, rows[number]
    except ShardError as error:
        raise RunError(questions.storage.redact(f"shard {shard.shard} breaks off: {error}")) from None


_MAGIC = {b"\x89PNG": "png", b"RIFF": "webp"}


def _free_key(sample_key: str, row_key: str, used: set[str]) -> str:
    """Make a key for a sample's members that no other sample of the tar has.

    It does not lead out of the folder that the tar is unpacked to, and its last part has no dot: webdataset
    takes what is before a name's first dot as the key, and refuses a tar in which one comes twice.
    """
    parts = [part for part in shown(sample_key).split("/") if part not in ("", ".")] or ["_"]
    folders = [part.replace(".", "_") if part.startswith("..") else part for part in parts[:-1]]
    key = "/".join([*folders, parts[-1].replace(".", "_")])
    while key in used:
        key = f"{key}-{row_key.rpartition('-')[0]}"
    used.add(key)
    return key


def _members(key: str, sample: Sample, rows: Rows) -> Iterator[tuple[str, bytes]]:
    """Name the files of one sample."""
    assert sample.image is not None
    yield f"{key}.{_MAGIC.get(bytes(sample.image[:4]), 'jpg')}", bytes(sample.image)
    answers = [{name: row[name] for name in ("key", "question_id", "question", "prediction")} for row in rows]
    yield (
        f"{key}.json",
        json.dumps({"sample_key": shown(sample.key), "answers": answers}, ensure_ascii=False).encode(),
    )
    if len(rows) == 1:
        yield f"{key}.txt", (rows[0]["prediction"] or "").encode()
