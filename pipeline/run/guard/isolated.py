"""Runs a unit whose workers died in a separate process: whole, then, if that dies, sample by sample."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Self

import pyarrow as pa

from pipeline.run.cluster.ship import ROOT
from pipeline.run.guard.child import DONE, ERROR, Stage
from pipeline.run.guard.samples import join_samples, mark_failed, split_by_sample
from pipeline.stages.rows import pack_unit, table_from_ipc, table_to_ipc, unpack_unit
from pipeline.support.errors import RunError

MakeStage = Callable[[], Stage]


class ProcessDied(Exception):  # noqa: N818 - an event, handled where it happens
    """Says that the process has died; the message names the signal or the exit status."""


class IsolatedStage:
    """Runs a stage in a separate process that may die.

    The process starts with the first unit, and again after a death.
    """

    def __init__(self, make: MakeStage) -> None:
        self._make = make
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Run a unit through the stage; ProcessDied if the process dies."""
        (table,) = self.stream(batch)
        return table

    def stream(self, batch: pa.Table) -> Iterator[pa.Table]:
        """Yield each table of a stage that returns several; ProcessDied when the process dies."""
        if self._process is None:
            self._start()
        try:
            self._commands.send_bytes(table_to_ipc(batch))
            while (message := self._answers.recv_bytes()) != DONE:
                if message[:1] == ERROR:
                    raise RunError(message[1:].decode().strip().splitlines()[-1])
                yield table_from_ipc(pa.py_buffer(memoryview(message)[1:]))
        except (EOFError, OSError):
            raise ProcessDied(self._cause_of_death()) from None

    def _start(self) -> None:
        import ray.cloudpickle

        to_child, from_child = os.pipe(), os.pipe()
        self._commands = Connection(to_child[1], readable=False)
        self._answers = Connection(from_child[0], writable=False)
        path = os.pathsep.join([str(ROOT), *(folder for folder in sys.path if folder)])
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "pipeline.run.guard.child", str(to_child[0]), str(from_child[1])],
            env=os.environ | {"PYTHONPATH": path},
            pass_fds=(to_child[0], from_child[1]),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(to_child[0])
        os.close(from_child[1])
        # if memory runs out, let the kernel kill this process rather than the worker
        with suppress(OSError):
            Path(f"/proc/{self._process.pid}/oom_score_adj").write_text("1000")
        with suppress(OSError):  # if the process died at once, the first unit notices
            self._commands.send_bytes(ray.cloudpickle.dumps(self._make))  # type: ignore[no-untyped-call]

    def _cause_of_death(self) -> str:
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


def answer_isolated(name: str, make: MakeStage, batch: pa.Table) -> pa.Table:
    """Run a unit through the stage `name` in a separate process.

    Samples that kill the process even alone become `failed` rows.

    Raises:
        RunError: the stage raised an error, or its process dies of failed rows, too.
    """
    with IsolatedStage(make) as process:
        with suppress(ProcessDied):  # the whole unit first: batches of the usual size give the usual answers
            return process(batch)
        row = unpack_unit(batch)
        done = []
        for sample in split_by_sample(row):
            try:
                done.append(unpack_unit(process(pack_unit(sample))))
            except ProcessDied as death:
                error = f"the worker of stage {name} died of {death} on this sample alone"
                done.append(unpack_unit(_pass_failed(name, process, pack_unit(mark_failed(sample, error)))))
        if not done:
            raise RunError(f"stage {name} crashes on an empty unit: {row.unit.file_name}")
        return pack_unit(join_samples(done))


def _pass_failed(name: str, process: IsolatedStage, batch: pa.Table) -> pa.Table:
    """Run failed rows through the stage, which only passes them on."""
    try:
        return process(batch)
    except ProcessDied as death:
        raise RunError(f"stage {name} dies of {death} even on rows that it only passes on") from None
