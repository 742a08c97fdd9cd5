"""Read: a shard's samples, cut into units.

Where a unit ends depends on its own samples and the limits alone, so a rerun cuts alike and passes
over the ranges whose files exist without reading their bytes.
"""

import functools
import io
import mmap
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from pipeline.output.plan import Plan, load_plan, require_same
from pipeline.output.units import Unit, UnitLimits
from pipeline.sources.base import Sample, Shard, Source, Want
from pipeline.sources.task import Task, requests_of
from pipeline.stages.rows import UnitRow, pack_buffers
from pipeline.storage.uris import Storage
from pipeline.support.errors import DataFault, ShardError
from pipeline.support.schema import SAMPLES

# A shard's number, first -> stop of the units that every arm has, and of those that some arms have the arms
# that lack them, by their first sample.
Pending = tuple[int, dict[int, int], dict[int, list[int]]]

# Samples are handed to Arrow in pieces of about this size, so that a unit is never held twice.
_PIECE_BYTES = 1 << 20
# What a unit's memory has room for beyond `unit_bytes`: its last image and its questions, as a rule.
_ROOM_BYTES = 32 << 20
# Characters of an error.
_TOLD = 500


@dataclass(frozen=True, kw_only=True)
class ReadPending:
    """The task that reads: a batch says which of the `pending` shards."""

    output: str
    attempt: str
    source: Source
    storage: Storage
    task: Task
    limits: UnitLimits
    pending: list[Pending]

    def __call__(self, batch: pa.Table) -> Iterator[pa.Table]:
        """The missing units of one shard."""
        shard, finished, partly = self._shard(batch)
        require_same(shard, self.storage)
        yield from read_shard(
            self.source,
            shard,
            storage=self.storage,
            task=self.task,
            limits=self.limits,
            finished=finished,
            partly=partly,
        )

    def broken_off(self, batch: pa.Table, read: dict[int, int], error: str) -> Iterator[pa.Table]:
        """The end of a shard that cannot be read beyond the units `read` (first -> stop)."""
        shard, finished, _ = self._shard(batch)
        stops, first = finished | read, 0
        while first in stops:
            first = stops[first]
        yield _Open(first, 0, _PIECE_BYTES).row(shard, {}, end=True, error=error)

    def _shard(self, batch: pa.Table) -> tuple[Shard, dict[int, int], dict[int, list[int]]]:
        ordinal, finished, partly = self.pending[batch["pending"][0].as_py()]
        return _plan(self.output, self.attempt, self.storage).shard(ordinal, self.storage), finished, partly


@functools.lru_cache(maxsize=1)
def _plan(output: str, attempt: str, storage: Storage) -> Plan:
    """The plan as it is in this attempt: a worker outlives it, and the plan may grow or be renewed."""
    plan = load_plan(output, storage)
    assert plan is not None, "the driver has written the plan"
    return plan


def read_shard(
    source: Source,
    shard: Shard,
    *,
    storage: Storage,
    task: Task,
    limits: UnitLimits,
    finished: dict[int, int],
    partly: dict[int, list[int]] | None = None,
) -> Iterator[pa.Table]:
    """The shard's units that are not `finished` (first -> stop), each as one row.

    `partly` has the numbers of the arms that lack a unit, by its first sample, where others have it.
    A shard that cannot be read (any further) ends with a unit, empty if need be, whose trace holds
    `shard_error`.
    """
    cutter = _Cutter(shard, task, limits, finished, storage)
    partly = partly or {}
    error = None
    # A closed unit waits for the next sample, which tells whether it is the shard's last one.
    waiting: _Open | None = None
    try:
        for sample in source.samples(shard, storage, cutter.wants):
            if waiting is not None:
                yield waiting.row(shard, partly, end=False)
                waiting = None
            waiting = cutter.add(sample)
            if cutter.index == shard.samples:
                break
    except ShardError as fault:
        error = _told(fault, storage)
    last = waiting or cutter.rest(error)
    waiting = cutter.current = None
    if last is not None:
        yield last.row(shard, partly, end=True, error=error)


@dataclass
class _Open:
    """A unit while its samples come in; their bytes go straight into an IPC stream.

    `room` is how many bytes that stream is expected to take at most.
    """

    first: int
    start_position: int
    room: int
    started: float = field(default_factory=time.time)
    cpu_from: float = field(default_factory=time.process_time)
    samples: int = 0
    requests: int = 0
    image_bytes: int = 0
    position: int = 0

    def __post_init__(self) -> None:
        self._memory = _Memory(self.room)
        self._writer = pa.ipc.new_stream(self._memory, SAMPLES)
        self._piece: list[dict[str, Any]] = []
        self._piece_bytes = 0

    def add(self, row: dict[str, Any], size: int, requests: int) -> None:
        self._piece.append(row)
        self._piece_bytes += size
        self.samples += 1
        self.requests += requests
        self.image_bytes += size
        if self._piece_bytes >= _PIECE_BYTES:
            self._flush()

    def _flush(self) -> None:
        if self._piece:
            self._writer.write_batch(pa.RecordBatch.from_pylist(self._piece, schema=SAMPLES))
        self._piece, self._piece_bytes = [], 0

    def row(
        self, shard: Shard, partly: dict[int, list[int]], *, end: bool, error: str | None = None
    ) -> pa.Table:
        self._flush()
        self._writer.close()
        trace = {
            "uri": shard.uri,
            "source_size": shard.size,
            "source_etag": shard.etag,
            "source_bytes": (shard.size if end else self.position) - self.start_position,
            "image_bytes": self.image_bytes,
            "requests": self.requests,
            "shard_error": error,
            "arms": partly.get(self.first),
        }
        row = UnitRow(Unit(shard.shard, self.first, self.first + self.samples, end), {}, trace)
        row = row.passed("read", self.started, {}, cpu_from=self.cpu_from)
        return pack_buffers(row, {"samples": self._memory.written()})


class _Memory(io.RawIOBase):
    """Memory straight from the system, which is taken as it is written and given back at once.

    Arrow's own sink doubles, and so copies, what it holds, and its allocator keeps what is let go: both
    together held more than three units.
    """

    def __init__(self, room: int) -> None:
        self._map, self._size = self._take(room), 0

    @staticmethod
    def _take(room: int) -> mmap.mmap:
        return mmap.mmap(-1, room, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        size = memoryview(data).nbytes
        if self._size + size > len(self._map):
            larger = self._take(2 * (self._size + size))
            larger[: self._size] = memoryview(self._map)[: self._size]
            self._map = larger
        self._map[self._size : self._size + size] = data
        self._size += size
        return size

    def written(self) -> pa.Buffer:
        """What was written, without a copy."""
        return pa.py_buffer(self._map).slice(0, self._size)


class _Cutter:
    """Follows a shard's samples and closes units."""

    def __init__(
        self, shard: Shard, task: Task, limits: UnitLimits, finished: dict[int, int], storage: Storage
    ) -> None:
        self._shard, self._task, self._limits, self._finished = shard, task, limits, finished
        self._storage = storage
        self.index = 0  # of the next sample
        self.current: _Open | None = None
        self._skip_to = 0
        self._position = 0

    def wants(self, index: int) -> Want:
        """All of a sample that is of a unit to be made; sources ask ahead of what they yield."""
        if index >= self._skip_to:
            self._skip_to = self._finished.get(index, index)
        return Want.ALL if index >= self._skip_to else Want.NOTHING

    def add(self, sample: Sample | None) -> _Open | None:
        """Take the next sample; the unit that it closes, if it closes one."""
        if sample is None:
            self.index += 1
            # none is open here, unless an image that no plan holds has changed: it ends, lest units overlap
            return self._close()
        if self.current is None:
            self.current = self._open()
        unit = self.current
        row = sample_row(sample, self.index, self._task, self._limits.max_questions, self._storage)
        unit.add(row, len(sample.image or b""), len(requests_of(self._shard.shard, row)))
        self.index += 1
        unit.position = self._position = sample.position
        return self._close() if self._is_full(unit) else None

    def rest(self, error: str | None) -> _Open | None:
        """What is left at the shard's end: its open unit, or an empty one that says so or says why."""
        lost = error and self.index not in self._finished.values()
        if self.current is None and (self.index == 0 or lost):
            self.current = self._open()
        return self._close() if self.current is not None else None

    def _is_full(self, unit: _Open) -> bool:
        limits = self._limits
        return (
            unit.samples >= limits.unit_samples
            or unit.requests >= limits.unit_requests
            or unit.image_bytes >= limits.unit_bytes
        )

    def _open(self) -> _Open:
        return _Open(self.index, self._position, self._limits.unit_bytes + _ROOM_BYTES)

    def _close(self) -> _Open | None:
        unit, self.current = self.current, None
        return unit


def sample_row(
    sample: Sample, index: int, task: Task, max_questions: int, storage: Storage
) -> dict[str, Any]:
    """A sample of a shard as a row of SAMPLES; its questions hang on no image."""
    try:
        questions = task.questions(sample, max_questions)
        fault = sample.fault
    except DataFault as error:
        questions, fault = (), error
    return {
        "sample": index,
        "sample_key": _clean(sample.key),
        "image": None if fault else sample.image,
        "questions": [
            {"question_id": _clean(item.question_id), "question": _clean(item.text)} for item in questions
        ],
        "status": fault.status if fault else "ok",
        "error": _told(fault, storage) if fault else None,
    }


def _told(fault: DataFault | ShardError, storage: Storage) -> str:
    """What is wrong in one short line: a name in a tar may hold line ends, and be as long as it likes."""
    return _clean(storage.redact(str(fault))[:_TOLD]) or type(fault).__name__


def _clean(text: str) -> str:
    """Text that Arrow can hold: names in tars and JSON escapes may hold what UTF-8 cannot."""
    return text.encode("utf-8", "replace").decode("utf-8")
