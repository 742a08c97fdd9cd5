"""Collects the samples of one unit while its shard is being read."""

import io
import mmap
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pyarrow as pa

from pipeline.output.units import Unit
from pipeline.sources.base import Shard
from pipeline.stages.rows import Fields, Trace, UnitRow, pack_buffers
from pipeline.support.census import Census
from pipeline.support.schema import SAMPLES

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

# Samples are handed to Arrow in pieces of about this size, so that a unit is never held twice.
_PIECE_BYTES = 1 << 20


@dataclass
class OpenUnit:
    """Collects a unit that is being read: writes samples to an IPC stream as they arrive.

    `room` is the expected size of that stream in bytes.
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
    census: Census = field(default_factory=Census)

    def __post_init__(self) -> None:
        self._memory = _Memory(self.room)
        self._writer = pa.ipc.new_stream(self._memory, SAMPLES)
        self._piece: list[Fields] = []
        self._piece_bytes = 0

    def add(self, row: Fields, size: int, requests: int) -> None:
        """Add a sample: its row of SAMPLES, the size of its image in bytes, and its number of requests."""
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
        self, shard: Shard, lacking_arms: dict[int, list[int]], *, end: bool, error: str | None = None
    ) -> pa.Table:
        """Close the unit and pack it into one row; `end` marks the shard's last unit."""
        self._flush()
        self._writer.close()
        trace: Trace = {
            "uri": shard.uri,
            "source_size": shard.size,
            "source_etag": shard.etag,
            "source_bytes": (shard.size if end else self.position) - self.start_position,
            "image_bytes": self.image_bytes,
            "requests": self.requests,
            "shard_error": error,
            "census": self.census.to_json() if self.census.entries else None,
            "arms": lacking_arms.get(self.first),
        }
        row = UnitRow(Unit(shard.shard, self.first, self.first + self.samples, end), {}, trace)
        row = row.passed("read", self.started, {}, cpu_from=self.cpu_from)
        return pack_buffers(row, {"samples": self._memory.written()})


class _Memory(io.RawIOBase):
    """Writes to anonymous memory, whose pages are allocated on writing and freed at once.

    Arrow's own sink copies its content each time it doubles its size, and Arrow's allocator keeps freed
    memory. Together they held more than three units.
    """

    def __init__(self, room: int) -> None:
        self._map, self._size = self._allocate(max(room, _PIECE_BYTES)), 0

    @staticmethod
    def _allocate(room: int) -> mmap.mmap:
        return mmap.mmap(-1, room, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)

    def writable(self) -> bool:
        return True

    def write(self, data: "ReadableBuffer") -> int:
        size = memoryview(data).nbytes
        if self._size + size > len(self._map):
            larger = self._allocate(2 * (self._size + size))
            larger[: self._size] = memoryview(self._map)[: self._size]
            self._map = larger
        self._map[self._size : self._size + size] = memoryview(data)
        self._size += size
        return size

    def written(self) -> pa.Buffer:
        """Return the written bytes without copying them."""
        return pa.py_buffer(self._map).slice(0, self._size)
