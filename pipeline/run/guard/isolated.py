"""A unit whose workers died, in a process of its own: whole, and if that dies too, sample by sample."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Self

import pyarrow as pa

from pipeline.run.guard.child import DONE, ERROR, bytes_of, table_of
from pipeline.run.guard.samples import failed, joined, pieces
from pipeline.stages.rows import pack_unit, unpack_unit
from pipeline.support.errors import RunError

Stage = Callable[[pa.Table], Any]
Make = Callable[[], Stage]

_ROOT = str(Path(__file__).resolve().parents[3])


class Died(Exception):  # noqa: N818 - an event, handled where it happens
    """The process is gone; the message says of what."""


class Alone:
    """A stage in a process that may die; it is started when it is needed, and again after a death."""

    def __init__(self, make: Make) -> None:
        self._make = make
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    def __call__(self, batch: pa.Table) -> pa.Table:
        """What the stage makes of a unit; Died if its process does."""
        (made,) = self.stream(batch)
        return made

    def stream(self, batch: pa.Table) -> Iterator[pa.Table]:
        """The same for a stage that makes several; Died after those that it made before its death."""
        if self._process is None:
            self._start()
        try:
            self._commands.send_bytes(bytes_of(batch))
            while (message := self._answers.recv_bytes()) != DONE:
                if message[:1] == ERROR:
                    raise RunError(message[1:].decode().strip().splitlines()[-1])
                yield table_of(memoryview(message)[1:])
        except (EOFError, OSError):
            raise Died(self._death()) from None

    def _start(self) -> None:
        import ray.cloudpickle

        theirs, ours = os.pipe(), os.pipe()
        self._commands = Connection(theirs[1], readable=False)
        self._answers = Connection(ours[0], writable=False)
        path = os.pathsep.join([_ROOT, *(folder for folder in sys.path if folder)])
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "pipeline.run.guard.child", str(theirs[0]), str(ours[1])],
            env=os.environ | {"PYTHONPATH": path},
            pass_fds=(theirs[0], ours[1]),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(theirs[0])
        os.close(ours[1])
        # where memory runs out, the system shall take the process that may die
        with suppress(OSError):
            Path(f"/proc/{self._process.pid}/oom_score_adj").write_text("1000")
        with suppress(OSError):  # a process that died at once is found out by the first unit
            self._commands.send_bytes(ray.cloudpickle.dumps(self._make))

    def _death(self) -> str:
        assert self._process is not None
        status = self._process.wait()
        self._stop()
        return signal.Signals(-status).name if status < 0 else f"exit status {status}"

    def _stop(self) -> None:
        if self._process is not None:
            self._commands.close()
            self._answers.close()
            self._process.kill()
            self._process.wait()
            self._process = None


def answer_alone(name: str, make: Make, batch: pa.Table) -> pa.Table:
    """A unit through the stage `name`; samples that kill its process even alone become `failed` rows.

    Raises:
        RunError: the stage raised, or dies whatever it is given.
    """
    with Alone(make) as process:
        with suppress(Died):  # as many at a time as ever: an innocent unit's answers are those of any other
            return process(batch)
        row = unpack_unit(batch)
        done = []
        for piece in pieces(row):
            try:
                done.append(unpack_unit(process(pack_unit(piece))))
            except Died as death:
                lost = failed(piece, f"the worker of stage {name} died of {death} on this sample alone")
                done.append(unpack_unit(_must(name, process, pack_unit(lost))))
        if not done:
            raise RunError(f"stage {name} dies of an empty unit: {row.unit.file_name}")
        return pack_unit(joined(done))


def _must(name: str, process: Alone, batch: pa.Table) -> pa.Table:
    try:
        return process(batch)
    except Died as death:
        raise RunError(f"stage {name} dies of {death} whatever it is given") from None
