"""A stage in a process that may die: `python -m pipeline.run.guard.child READ WRITE`, two inherited pipes.

It is given what makes the stage, then units; of each unit it sends what the stage makes of it, and DONE.
"""

import pickle
import sys
import traceback
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from typing import Any

import pyarrow as pa

TABLE, DONE, ERROR = b"T", b"D", b"E"


def serve(commands: Connection, answers: Connection) -> None:
    """Answer until the other end closes."""
    try:
        stage = pickle.loads(commands.recv_bytes())()  # from our own parent process
        while True:
            batch = table_of(commands.recv_bytes())
            for made in _made(stage, batch):
                answers.send_bytes(TABLE + bytes_of(made))
            answers.send_bytes(DONE)
    except EOFError:
        return
    except Exception:  # noqa: BLE001 - it is raised again on the other side
        answers.send_bytes(ERROR + traceback.format_exc().encode())


def _made(stage: Callable[[pa.Table], Any], batch: pa.Table) -> Iterator[pa.Table]:
    made = stage(batch)
    yield from [made] if isinstance(made, pa.Table) else made


def bytes_of(table: pa.Table) -> bytes:
    """A table as an Arrow IPC stream."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()


def table_of(data: bytes | memoryview) -> pa.Table:
    """What `bytes_of` wrote."""
    return pa.ipc.open_stream(pa.py_buffer(data)).read_all()


if __name__ == "__main__":
    serve(Connection(int(sys.argv[1]), writable=False), Connection(int(sys.argv[2]), readable=False))
