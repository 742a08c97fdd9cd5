"""Reads a shard's samples and cuts them into units.

Where a unit ends depends on its own samples and the limits alone. So a rerun cuts the same units, and skips
the ranges whose files exist without reading their bytes.
"""

import functools
from collections.abc import Iterator
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.output.changed import require_same
from pipeline.output.plan_parts import part_metadata, read_planned
from pipeline.output.units import UnitLimits
from pipeline.sources.base import Sample, Shard, Source, Want
from pipeline.sources.items import items_of
from pipeline.sources.task import Task, requests_of
from pipeline.stages.open_unit import OpenUnit
from pipeline.stages.pending import PendingShard, parse_pending
from pipeline.stages.rows import Fields
from pipeline.storage.names import shown
from pipeline.storage.uris import Storage
from pipeline.support.census import Census, PassedOver
from pipeline.support.errors import DataFault, ShardError

# Initial room of a unit's memory beyond `unit_bytes`: usually enough for its last image and its questions.
_ROOM_BYTES = 32 << 20
_ERROR_CHARACTERS = 500


@dataclass(frozen=True, kw_only=True)
class ReadPending:
    """Reads, as the read task, the shard that its batch names, with the units that it lacks.

    Nothing here grows with the plan or with what is finished: a copy goes to every worker.

    Args:
        storage, reading: how to reach the output, which has the plan, and the source.
    """

    output: str
    attempt: str
    source: Source
    storage: Storage
    reading: Storage
    task: Task
    limits: UnitLimits

    def __call__(self, batch: pa.Table) -> Iterator[pa.Table]:
        """Yield the missing units of one shard; `batch` is a row of `PENDING`."""
        shard, pending = self._shard(batch)
        require_same(shard, self.reading)
        yield from read_shard(
            self.source,
            shard,
            storage=self.reading,
            task=self.task,
            limits=self.limits,
            finished=pending.finished,
            lacking_arms=pending.lacking_arms,
        )

    def broken_off(self, batch: pa.Table, read: dict[int, int], error: str) -> Iterator[pa.Table]:
        """Yield the empty last unit of a shard that cannot be read beyond units `read` (first -> stop)."""
        shard, pending = self._shard(batch)
        stops, first = pending.finished | read, 0
        while first in stops:
            first = stops[first]
        yield OpenUnit(first, 0, room=0).row(shard, {}, end=True, error=error)

    def _shard(self, batch: pa.Table) -> tuple[Shard, PendingShard]:
        pending, place = parse_pending(batch)
        metadata = _metadata_of_attempt(self.output, self.attempt, self.storage, place.file)
        return read_planned(self.output, place, self.storage, metadata), pending


@functools.lru_cache(maxsize=4)
def _metadata_of_attempt(output: str, attempt: str, storage: Storage, name: str) -> pq.FileMetaData:
    """Read the metadata of a file below plan/, once for each start of the job.

    A worker may outlive a start, and the file of a renewed line is written anew between two.
    """
    return part_metadata(output, name, storage)


def read_shard(
    source: Source,
    shard: Shard,
    *,
    storage: Storage,
    task: Task,
    limits: UnitLimits,
    finished: dict[int, int],
    lacking_arms: dict[int, list[int]] | None = None,
) -> Iterator[pa.Table]:
    """Yield the shard's missing units, each as one row.

    If the shard cannot be read to its end, the last unit's trace has a `shard_error`; that unit may be empty.

    Args:
        finished, lacking_arms: see `PendingShard`.
    """
    cutter = _Cutter(shard, task, limits, finished, storage)
    lacking_arms = lacking_arms or {}
    error = None
    # A closed unit waits for the next sample: without one, it is the shard's last unit.
    waiting: OpenUnit | None = None
    try:
        for sample in items_of(source, shard, storage, cutter.wants):
            if isinstance(sample, PassedOver):
                cutter.pass_over(sample)
                continue
            if waiting is not None:
                yield waiting.row(shard, lacking_arms, end=False)
                waiting = None
            waiting = cutter.add(sample)
            if cutter.index == shard.samples:
                break
        cutter.require_some()
    except ShardError as fault:
        error = _error_text(fault, storage)
    last = waiting or cutter.rest(error)
    waiting = cutter.current = None
    if last is not None:
        yield last.row(shard, lacking_arms, end=True, error=error)


class _Cutter:
    """Collects a shard's samples into units."""

    def __init__(
        self, shard: Shard, task: Task, limits: UnitLimits, finished: dict[int, int], storage: Storage
    ) -> None:
        self._shard, self._task, self._limits, self._finished = shard, task, limits, finished
        self._storage = storage
        self.index = 0  # of the next sample
        self.current: OpenUnit | None = None
        # what the next passed-over entry is counted in: the unit of the sample before it, or of the first one
        self._census: Census | None = Census()
        self._skip_to = 0
        self._position = 0

    def wants(self, index: int) -> Want:
        """Tell whether a sample belongs to a missing unit. Sources ask this before they read the sample."""
        if index >= self._skip_to:
            self._skip_to = self._finished.get(index, index)
        return self._task.wanted if index >= self._skip_to else Want.NOTHING

    def add(self, sample: Sample | None) -> OpenUnit | None:
        """Add the next sample (None: one of a finished unit), and return the unit that it closes, if any."""
        if sample is None:
            self.index += 1
            self._census = None  # the finished unit has counted them
            # Usually no unit is open here. But if an image or sidecar that the plan does not list has changed
            # since, an open unit may reach a finished range: close it, so that ranges do not overlap.
            return self._close()
        if self.current is None:
            self.current = self._open()
        unit = self.current
        self._census = unit.census
        unit.census.take(*sample.taken)
        row = sample_row(sample, self.index, self._task, self._limits.max_questions, self._storage)
        unit.add(row, len(sample.image or b""), len(requests_of(self._shard.shard, row)))
        self.index += 1
        unit.position = self._position = sample.position
        return self._close() if self._is_full(unit) else None

    def pass_over(self, entry: PassedOver) -> None:
        """Count an entry of which no sample is made, unless a finished unit has counted it."""
        if self._census is not None:
            self._census.pass_over(PassedOver(shown(entry.name), entry.reason))

    def require_some(self) -> None:
        """Raise ShardError if the shard has entries, and none of them was taken."""
        if self.index == 0 and self._census is not None and (text := self._census.nothing_taken()):
            raise ShardError(text)

    def rest(self, error: str | None) -> OpenUnit | None:
        """Return the unit that is open at the shard's end, if any.

        An empty shard, or an error that no finished unit has recorded, gets an empty unit.
        """
        unrecorded = error and self.index not in self._finished.values()
        if self.current is None and (self.index == 0 or unrecorded):
            self.current = self._open()
        return self._close() if self.current is not None else None

    def _is_full(self, unit: OpenUnit) -> bool:
        limits = self._limits
        return (
            unit.samples >= limits.unit_samples
            or unit.requests >= limits.unit_requests
            or unit.image_bytes >= limits.unit_bytes
        )

    def _open(self) -> OpenUnit:
        unit = OpenUnit(self.index, self._position, self._limits.unit_bytes + _ROOM_BYTES)
        if self.index == 0 and self._census is not None:
            unit.census.add(self._census)
        return unit

    def _close(self) -> OpenUnit | None:
        unit, self.current = self.current, None
        return unit


def sample_row(sample: Sample, index: int, task: Task, max_questions: int, storage: Storage) -> Fields:
    """Make a row of SAMPLES from a sample, whose questions are the same with and without its image."""
    try:
        questions = task.questions(sample, max_questions)
        fault = sample.fault
    except DataFault as error:
        questions, fault = (), error
    return {
        "sample": index,
        "sample_key": shown(sample.key),
        "image": None if fault else sample.image,
        "questions": [
            {
                "question_id": _clean(item.question_id),
                "question": _clean(item.text),
                "fault": None if item.fault is None else _clean(storage.redact(item.fault)),
            }
            for item in questions
        ],
        "status": fault.status if fault else "ok",
        "error": _error_text(fault, storage) if fault else None,
    }


def _error_text(fault: DataFault | ShardError, storage: Storage) -> str:
    """Return a fault's message without credentials, and not too long: names in tars may have any length."""
    return _clean(storage.redact(str(fault))[:_ERROR_CHARACTERS]) or type(fault).__name__


def _clean(text: str) -> str:
    """Replace characters that UTF-8 cannot encode, which JSON escapes may contain."""
    return text.encode("utf-8", "replace").decode("utf-8")
