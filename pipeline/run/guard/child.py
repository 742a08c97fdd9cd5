"""Runs a stage in a child process: `python -m pipeline.run.guard.child READ WRITE`, two inherited pipes.

The parent sends the pickled function that makes the stage, then units. For each unit the child sends the
tables that the stage returns, and then DONE.
"""

import pickle
import sys
import traceback
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection

import pyarrow as pa

from pipeline.stages.rows import table_from_ipc, table_to_ipc

TABLE, DONE, ERROR = b"T", b"D", b"E"
Stage = Callable[[pa.Table], pa.Table | Iterator[pa.Table]]


def serve(commands: Connection, answers: Connection) -> None:
    """Run the stage on each unit that arrives, until the parent closes its end."""
    try:
        stage = pickle.loads(commands.recv_bytes())()  # from our own parent process
        while True:
            batch = table_from_ipc(pa.py_buffer(commands.recv_bytes()))
            for table in _tables(stage, batch):
                answers.send_bytes(TABLE + table_to_ipc(table).to_pybytes())
            answers.send_bytes(DONE)
    except EOFError:
        return
    except Exception:  # noqa: BLE001 - the parent raises it again
        answers.send_bytes(ERROR + traceback.format_exc().encode())


def _tables(stage: Stage, batch: pa.Table) -> Iterator[pa.Table]:
    result = stage(batch)
    yield from [result] if isinstance(result, pa.Table) else result


if __name__ == "__main__":
    serve(Connection(int(sys.argv[1]), writable=False), Connection(int(sys.argv[2]), readable=False))
