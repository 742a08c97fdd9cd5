"""Reads the chosen rows of a finished output, with the samples of its source if they are needed."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from itertools import groupby, islice
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.export.options import Export
from pipeline.output.layout import DATA
from pipeline.output.opened import Output, Questions
from pipeline.output.plan import Plan
from pipeline.output.units import Unit
from pipeline.sources.base import Sample, Shard, Want
from pipeline.sources.items import samples_of
from pipeline.storage.uris import Storage
from pipeline.support.errors import RunError, ShardError
from pipeline.support.parallel import each
from pipeline.support.progress_lines import telling

_FILES_AT_ONCE = 4

Rows = list[dict[str, Any]]  # rows of PREDICTIONS


@dataclass
class Written:
    """Counts what an export wrote; `notes` are lines that its reader should know."""

    rows: int = 0
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Answers:
    """Holds a finished output and the options of its export."""

    options: Export
    output: Output
    reading: Storage  # how to reach the source

    @property
    def plan(self) -> Plan:
        return self.output.plan

    @property
    def storage(self) -> Storage:
        return self.output.storage

    @cached_property
    def questions(self) -> Questions:
        """The source of the output, where it lies now."""
        return self.output.questions(self.options.source, self.reading)

    def shards(self) -> Iterator[Shard]:
        """Read the shards of the plan in order, and tell now and then how many have been."""
        return telling(self.plan.shards(self.storage), len(self.plan), "shards read")

    def numbers(self) -> Iterator[int]:
        """Yield the numbers of the plan's shards in order, and tell now and then how many have been."""
        return telling(range(len(self.plan)), len(self.plan), "shards read")

    def tables(self, shard: int, columns: list[str] | None = None) -> Iterator[pa.Table]:
        """Read the chosen rows of a shard's units, in order."""
        fs, path = self.storage.open(self.output.folder)
        names = None if columns is None else sorted({*columns, "status"})

        def read(unit: Unit) -> pa.Table:
            with fs.open(f"{path}/{DATA}/{unit.file_name}", "rb") as file:
                return pq.read_table(file, columns=names, use_threads=False)

        chosen = pa.array(self.options.statuses, pa.string())
        for table in each(read, self.output.finished.units(shard), _FILES_AT_ONCE):
            yield table.filter(pa.compute.is_in(table["status"], chosen))

    def samples(self, shard: int) -> Iterator[tuple[int, Rows]]:
        """Read each sample's number with its chosen rows."""
        for table in self.tables(shard):
            for number, rows in groupby(table.to_pylist(), key=lambda row: int(row["sample"])):
                yield number, list(rows)

    def with_source(self, shard: Shard, others: Want = Want.NOTHING) -> Iterator[tuple[Sample | None, Rows]]:
        """Read a shard's samples from the source, each with its chosen rows.

        Args:
            others: how much to read of samples without chosen rows; if it is anything, those before the last
                sample with chosen rows are yielded, too.

        Raises:
            RunError: a sample is no longer in the source, or has lost its image.
        """
        rows = dict(self.samples(shard.shard))
        if not rows:
            return
        questions = self.questions
        moved = questions.moved(shard)

        def wanted(number: int) -> Want:
            return Want.ALL if number in rows else others

        samples = samples_of(questions.source, moved, questions.reading, wanted)
        count = 0
        try:
            with questions.reading.reaching("source.path", moved.uri):
                for number, sample in enumerate(islice(samples, shard.samples)):
                    count += number in rows
                    if number in rows:
                        self._require(sample, rows[number][0], moved)
                    if number in rows or others:
                        yield sample, rows.get(number, [])
                    if count == len(rows):
                        return  # what is behind, damage among it, was not answered
        except ShardError as error:
            raise RunError(questions.reading.redact(f"{moved.uri} breaks off: {error}")) from None
        if count < len(rows):
            raise RunError(questions.reading.redact(f"{moved.uri} has fewer samples than were answered"))

    def _require(self, sample: Sample | None, row: dict[str, Any], shard: Shard) -> None:
        """Require that a sample has the image that its row is about; a bad_sample may have had none."""
        if sample is None or (sample.image is None and row["status"] != "bad_sample"):
            raise RunError(
                self.questions.reading.redact(f"{row['key']}: its image is no longer in {shard.uri}")
            )
