"""A unit as one Ray row: where it lies, its trace so far, and its tables as IPC bytes.

Stages are called with a one-row Arrow table and yield one, so Ray can neither split nor merge units;
`unpack` asserts that it did not.
"""

import json
import os
import resource
import socket
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipeline.output.units import Unit


@dataclass(frozen=True)
class UnitRow:
    """What travels between two stages.

    `tables` are the unit's tables by name; `trace` is what the file's footer will tell about the way
    here: source position and fault, and each stage's process.
    """

    unit: Unit
    tables: dict[str, pa.Table]
    trace: dict[str, Any] = field(default_factory=dict)

    def arms(self, count: int) -> list[int]:
        """The numbers, of `count` arms, of those that lack the unit, in the order in which they take turns.

        Where units are of one size, the first arm of one is the last of the next, so that a machine that
        drifts favours none.
        """
        wanted = self.trace.get("arms")
        numbers = list(range(count)) if wanted is None else wanted
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
    ) -> "UnitRow":
        """The row after `stage`, which was entered at `started` (seconds since the epoch).

        `cpu_from` is what `time.process_time()` was then: all threads of the process count.
        """
        visit = {
            "node": _node(),
            "pid": os.getpid(),
            "start": started,
            "end": time.time(),
            "cpu_s": None if cpu_from is None else time.process_time() - cpu_from,
            "cores": len(os.sched_getaffinity(0)),
            "peak_memory_bytes": peak_memory_bytes(),
            "peak_gpu_memory_bytes": peak_gpu_memory_bytes(),
            "startup_s": startup_s,
        }
        stages = {**self.trace.get("stages", {}), stage: visit}
        return replace(self, tables=tables, trace={**self.trace, "stages": stages})


@cache
def _node() -> str:
    """This node's name; in a worker of Ray's with its address, since nodes on one host share the name."""
    ray, name = sys.modules.get("ray"), socket.gethostname()
    return f"{name}/{ray.util.get_node_ip_address()}" if ray is not None and ray.is_initialized() else name


def peak_memory_bytes() -> int:
    """Peak resident memory of this process, shared memory included."""
    status = Path("/proc/self/status")
    if status.is_file():  # getrusage would tell the peak of the process that this one was forked from
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # macOS: in bytes


def peak_gpu_memory_bytes() -> int | None:
    """Peak of what torch held on GPUs in this process; None if it uses none."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return None
    return sum(torch.cuda.max_memory_reserved(device) for device in range(torch.cuda.device_count()))


def pack(row: UnitRow) -> pa.Table:
    """The unit as a one-row table; each of its tables is written once and not copied again."""
    return pack_buffers(
        row, {name: to_ipc(table.schema, table.to_batches()) for name, table in row.tables.items()}
    )


def pack_buffers(row: UnitRow, buffers: dict[str, pa.Buffer]) -> pa.Table:
    """Like `pack`, for tables that are IPC streams already."""
    unit = row.unit
    columns: dict[str, pa.Array] = {
        "shard": pa.array([unit.shard], pa.int64()),
        "first": pa.array([unit.first], pa.int64()),
        "stop": pa.array([unit.stop], pa.int64()),
        "end": pa.array([unit.end], pa.bool_()),
        "trace": pa.array([json.dumps(row.trace)], pa.string()),
    }
    columns.update({f"table:{name}": _cell(buffer) for name, buffer in buffers.items()})
    return pa.table(columns)


def to_ipc(schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> pa.Buffer:
    """An Arrow IPC stream; batches are consumed one by one."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, schema) as writer:
        for batch in batches:
            writer.write_batch(batch)
    return sink.getvalue()


def _cell(buffer: pa.Buffer) -> pa.Array:
    """A binary array of one value that shares the buffer."""
    offsets = pa.array([0, buffer.size], pa.int64()).buffers()[1]
    return pa.Array.from_buffers(pa.large_binary(), 1, [None, offsets, buffer])


def unpack(batch: pa.Table) -> UnitRow:
    """The unit of a one-row table; its tables share the row's memory."""
    assert batch.num_rows == 1, f"a stage must be given one unit, got {batch.num_rows}"
    unit = Unit(*(batch[name][0].as_py() for name in ("shard", "first", "stop", "end")))
    tables = {
        name.removeprefix("table:"): pa.ipc.open_stream(_bytes_of(batch[name])).read_all()
        for name in batch.column_names
        if name.startswith("table:")
    }
    return UnitRow(unit, tables, json.loads(batch["trace"][0].as_py()))


def _bytes_of(column: pa.ChunkedArray) -> pa.Buffer:
    """The only value of a large_binary column without a copy, which its scalar would be."""
    (cell,) = (chunk for chunk in column.chunks if len(chunk))
    _, offsets, data = cell.buffers()
    first, stop = memoryview(offsets).cast("q")[cell.offset : cell.offset + 2]
    return data.slice(first, stop - first)
