"""Sorts the lines of a listing with little memory: sorted runs are kept on disk and merged."""

import heapq
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from itertools import islice

# Canonical URI, size in bytes, etag.
Line = tuple[str, int, str]

_RUN_LINES = 100_000  # some 50 MiB
_MERGED_RUNS = 64
_BATCH_LINES = 1_000  # of a run on disk in memory


def in_order(
    lines: Iterable[Line], *, run_lines: int = _RUN_LINES, merged_runs: int = _MERGED_RUNS
) -> Iterator[Line]:
    """Sort lines by URI with an external merge sort.

    S3 itself lists in the order of the keys' bytes, but not every store does: SeaweedFS lists `a/b` before
    `a-b`. Several threads list in no order, and neither does an inventory.

    Args:
        run_lines: the most lines that are sorted in memory.
        merged_runs: so many runs of one size become a longer one, so that few files are open however many
            lines there are.
    """
    lines = iter(lines)
    with ExitStack() as stack:
        runs = _Runs(merged_runs, stack)
        last: list[Line] = []
        while run := sorted(islice(lines, run_lines)):
            if len(run) < run_lines:
                last = run
                break
            runs.add(run)
            del run
        yield from heapq.merge(*runs, last)


class _Runs:
    """Holds sorted runs on disk, each level some `merged` times as long as the one before."""

    def __init__(self, merged: int, stack: ExitStack) -> None:
        self._merged, self._stack = merged, stack
        self._levels: list[list[Iterator[Line]]] = []

    def add(self, run: Iterable[Line], level: int = 0) -> None:
        """Move a run to disk; a full level is merged into one run of the next."""
        if level == len(self._levels):
            self._levels.append([])
        runs = self._levels[level]
        runs.append(_on_disk(run, self._stack))
        if len(runs) == self._merged:
            self._levels[level] = []
            self.add(heapq.merge(*runs), level + 1)

    def __iter__(self) -> Iterator[Iterator[Line]]:
        for runs in self._levels:
            yield from runs


def _on_disk(lines: Iterable[Line], stack: ExitStack) -> Iterator[Line]:
    """Move sorted lines to a temporary file and iterate over that; it is deleted with its last reader."""
    import pyarrow as pa

    schema = pa.schema([("uri", pa.string()), ("size", pa.int64()), ("etag", pa.string())])
    disk = tempfile.TemporaryFile()  # noqa: SIM115 - the reader closes it
    stack.callback(disk.close)
    options = pa.ipc.IpcWriteOptions(compression="zstd")
    lines = iter(lines)
    with pa.ipc.new_stream(disk, schema, options=options) as writer:
        while batch := list(islice(lines, _BATCH_LINES)):
            writer.write_batch(pa.record_batch(list(map(list, zip(*batch, strict=True))), schema=schema))
    disk.seek(0)

    def read() -> Iterator[Line]:
        with disk:
            for batch in pa.ipc.open_stream(disk):
                yield from zip(*(column.to_pylist() for column in batch.columns), strict=True)

    return read()
