"""Packs a unit into one Ray row: its place in the source, its trace and its tables as IPC bytes.

Stages take a one-row Arrow table and return one, so Ray can neither split nor merge units; `unpack_unit`
asserts that it did not.
"""

import json
import os
import resource
import socket
import sys
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any, TypedDict

import pyarrow as pa

from pipeline.output.footers import Visit
from pipeline.output.units import Unit

Fields = dict[str, Any]  # a row of a table of schema.py, whose column types it has


class Trace(TypedDict, total=False):
    """Collects what the stages record about a unit, for the footers of its files. It travels as JSON.

    `read` sets all keys but the later stages' entries in `stages`.
    """

    uri: str
    source_size: int  # bytes, as are the next two
    source_bytes: int
    image_bytes: int
    source_etag: str
    requests: int  # for each arm
    shard_error: str | None  # why the shard cannot be read beyond this unit
    census: dict[str, Any] | None  # what became of the shard's entries, as `Census.to_json` has it
    arms: list[int] | None  # the numbers of the arms that lack the unit; None: all
    stages: dict[str, Visit]  # by the names of the stages, in their order


@dataclass(frozen=True)
class UnitRow:
    """Holds a unit between two stages; `tables` are its tables by name."""

    unit: Unit
    tables: dict[str, pa.Table]
    trace: Trace = field(default_factory=Trace)

    def arms(self, count: int) -> list[int]:
        """List those of `count` arms that lack the unit, in the order in which they take turns.

        With units of one size, the order rotates by one from unit to unit, so that a machine whose speed
        drifts favours no arm. For three arms: 0 1 2, then 1 2 0, then 2 0 1.
        """
        lacking = self.trace.get("arms")
        numbers = list(range(count)) if lacking is None else lacking
        unit = self.unit
        turn = (unit.shard + unit.first // max(1, unit.stop - unit.first)) % max(1, len(numbers))
        return [*numbers[turn:], *numbers[:turn]]

    def passed(
        self,
        stage: str,
        started: float,
        tables: dict[str, pa.Table],
        startup_s: float = 0.0,
        cpu_from: float | None = None,
        device: str | None = None,
    ) -> "UnitRow":
        """Return the row after a stage, with the stage's tables and its visit added to the trace.

        Args:
            started: when the stage began, in seconds since the epoch.
            startup_s: how long the stage's process took to load its models.
            cpu_from: `time.process_time()` at the beginning, which counts all threads of the process.
            device: on which the stage's model computed, as `models.devices.device_name` has it.
        """
        visit = Visit(
            node=_node(),
            pid=os.getpid(),
            start=started,
            end=time.time(),
            cpu_s=None if cpu_from is None else time.process_time() - cpu_from,
            cores=len(os.sched_getaffinity(0)),
            peak_memory_bytes=peak_memory_bytes(),
            peak_gpu_memory_bytes=peak_gpu_memory_bytes(),
            startup_s=startup_s,
            device=device,
        )
        trace = self.trace.copy()
        trace["stages"] = {**self.trace.get("stages", {}), stage: visit}
        return replace(self, tables=tables, trace=trace)


@cache
def _node() -> str:
    """Name this node; in a Ray worker with its address, since nodes on one host share the host's name."""
    ray, name = sys.modules.get("ray"), socket.gethostname()
    return f"{name}/{ray.util.get_node_ip_address()}" if ray is not None and ray.is_initialized() else name


def peak_memory_bytes() -> int:
    """Return the peak resident memory of this process, including shared memory."""
    status = Path("/proc/self/status")
    if status.is_file():  # after a fork, getrusage returns the parent's peak
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # on macOS in bytes


def peak_gpu_memory_bytes() -> int | None:
    """Return the peak memory that torch reserved on this process's GPUs; None if it uses none."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return None
    devices = range(torch.cuda.device_count())
    return sum(int(torch.cuda.max_memory_reserved(device)) for device in devices)


def pack_unit(row: UnitRow) -> pa.Table:
    """Pack a unit into a one-row table; each of its tables is serialised once and not copied again."""
    return pack_buffers(row, {name: table_to_ipc(table) for name, table in row.tables.items()})


def pack_buffers(row: UnitRow, buffers: dict[str, pa.Buffer]) -> pa.Table:
    """Pack a unit whose tables are IPC streams already."""
    unit = row.unit
    columns: dict[str, pa.Array] = {
        "shard": pa.array([unit.shard], pa.int64()),
        "first": pa.array([unit.first], pa.int64()),
        "stop": pa.array([unit.stop], pa.int64()),
        "end": pa.array([unit.end], pa.bool_()),
        "trace": pa.array([json.dumps(row.trace, default=asdict)], pa.string()),
    }
    columns.update({f"table:{name}": binary_cell(buffer) for name, buffer in buffers.items()})
    return pa.table(columns)


def to_ipc(schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> pa.Buffer:
    """Write record batches into an Arrow IPC stream, consuming them one by one."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, schema) as writer:
        for batch in batches:
            writer.write_batch(batch)
    return sink.getvalue()


def table_to_ipc(table: pa.Table) -> pa.Buffer:
    """Write a table into an Arrow IPC stream, in memory of just its size: each byte is copied once."""

    def write(sink: pa.NativeFile) -> None:
        with pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)

    size = pa.MockOutputStream()
    write(size)
    buffer = pa.allocate_buffer(size.size())
    write(pa.FixedSizeBufferWriter(buffer))
    return buffer


def table_from_ipc(stream: pa.Buffer) -> pa.Table:
    """Read a table from an Arrow IPC stream; the table shares the stream's memory."""
    return pa.ipc.open_stream(stream).read_all()


def binary_cell(buffer: pa.Buffer) -> pa.Array:
    """Make a binary array of one value that shares the buffer."""
    offsets = pa.array([0, buffer.size], pa.int64()).buffers()[1]
    return pa.Array.from_buffers(pa.large_binary(), 1, [None, offsets, buffer])


def unpack_unit(batch: pa.Table) -> UnitRow:
    """Unpack a unit from a one-row table; its tables share the row's memory."""
    assert batch.num_rows == 1, f"a stage must be given one unit, got {batch.num_rows}"
    unit = Unit(*(batch[name][0].as_py() for name in ("shard", "first", "stop", "end")))
    tables = {
        name.removeprefix("table:"): table_from_ipc(_only_buffer(batch[name]))
        for name in batch.column_names
        if name.startswith("table:")
    }
    return UnitRow(unit, tables, _trace_from_json(batch["trace"][0].as_py()))


def _trace_from_json(text: str) -> Trace:
    data = json.loads(text)
    trace: Trace = data
    if "stages" in data:
        trace["stages"] = {stage: Visit.from_json(visit) for stage, visit in data["stages"].items()}
    return trace


def _only_buffer(column: pa.ChunkedArray) -> pa.Buffer:
    """Return the only value of a large_binary column without copying it, as a scalar would."""
    (cell,) = (chunk for chunk in column.chunks if len(chunk))
    _, offsets, data = cell.buffers()
    first, stop = memoryview(offsets).cast("q")[cell.offset : cell.offset + 2]
    return data.slice(first, stop - first)
