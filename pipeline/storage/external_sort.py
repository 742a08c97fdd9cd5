"""Sorts the lines of a listing with little memory: sorted runs are kept on disk and merged."""

import heapq
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from itertools import islice

# Canonical URI, size in bytes, etag.
Line = tuple[str, int, str]

# The most lines that are sorted in memory: some 50 MiB.
RUN_LINES = 100_000
# So many runs of one size become a longer one, so that few files are open however many lines there are.
MERGED_RUNS = 64
_BATCH_LINES = 1_000  # of a run on disk in memory


def in_order(lines: Iterable[Line]) -> Iterator[Line]:
    """Sort lines by URI with an external merge sort.

    S3 itself lists in the order of the keys' bytes, but not every store does: SeaweedFS lists `a/b` before
    `a-b`. Several threads list in no order, and neither does an inventory.
    """
    lines = iter(lines)
    with ExitStack() as stack:
        levels: list[list[Iterator[Line]]] = []  # runs on disk, each level some MERGED_RUNS times as long
        last: list[Line] = []
        while run := sorted(islice(lines, RUN_LINES)):
            if len(run) < RUN_LINES:
                last = run
                break
            _add(levels, 0, _on_disk(run, stack), stack)
            del run
        yield from heapq.merge(*(run for level in levels for run in level), last)


def _add(levels: list[list[Iterator[Line]]], level: int, run: Iterator[Line], stack: ExitStack) -> None:
    """Add a run on disk to its level; a full level is merged into one run of the next."""
    if level == len(levels):
        levels.append([])
    levels[level].append(run)
    if len(levels[level]) == MERGED_RUNS:
        merged = _on_disk(heapq.merge(*levels[level]), stack)
        levels[level].clear()
        _add(levels, level + 1, merged, stack)


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
