"""Runs a stage in a child process: `python -m pipeline.run.guard.child READ WRITE`, two inherited pipes.

The parent sends the pickled function that makes the stage, then units. For each unit the child sends the
tables that the stage returns, and then DONE. What the stage raises on a unit it sends as RAISED, or as DEVICE
if it is an error of the GPU; what it raises while it is made as NOT_MADE; what ends the run as ERROR. Then it
ends.
"""

import pickle
import sys
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection

import pyarrow as pa

from pipeline.run.guard.faults import ends_run, is_of_device
from pipeline.stages.rows import table_from_ipc, table_to_ipc
from pipeline.support.errors import described

TABLE, DONE, RAISED, DEVICE, NOT_MADE, ERROR = b"T", b"D", b"R", b"G", b"N", b"E"
Stage = Callable[[pa.Table], pa.Table | Iterator[pa.Table]]


def serve(commands: Connection, answers: Connection) -> None:
    """Run the stage on each unit that arrives, until the parent closes its end."""
    try:
        stage = pickle.loads(commands.recv_bytes())()  # from our own parent process
    except Exception as error:  # noqa: BLE001 - the parent raises it again
        answers.send_bytes(NOT_MADE + described(error).encode())
        return
    try:
        while True:
            if not _answer(stage, commands.recv_bytes(), answers):
                return
    except EOFError:
        return


def _answer(stage: Stage, data: bytes, answers: Connection) -> bool:
    """Run the stage on a unit, and send what it returns or raises; returns whether it has raised nothing."""
    try:
        for table in _tables(stage, table_from_ipc(pa.py_buffer(data))):
            answers.send_bytes(TABLE + table_to_ipc(table).to_pybytes())
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # noqa: BLE001 - Rust's panics, too; the parent raises it again
        kind = ERROR if ends_run(error) else DEVICE if is_of_device(error) else RAISED
        answers.send_bytes(kind + described(error).encode())
        return False
    answers.send_bytes(DONE)
    return True


def _tables(stage: Stage, batch: pa.Table) -> Iterator[pa.Table]:
    result = stage(batch)
    yield from [result] if isinstance(result, pa.Table) else result


if __name__ == "__main__":
    serve(Connection(int(sys.argv[1]), writable=False), Connection(int(sys.argv[2]), readable=False))
