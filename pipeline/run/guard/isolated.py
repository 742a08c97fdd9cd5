"""Runs a stage in a separate process, for units whose workers died or raise exceptions on every sample."""

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
from pipeline.run.guard.child import DEVICE, DONE, ERROR, NOT_MADE, RAISED, Stage
from pipeline.run.guard.faults import (
    DeviceBroken,
    DeviceRaised,
    NotStarted,
    ProcessDied,
    Run,
    StageRaised,
    UnitFault,
)
from pipeline.run.guard.pieces import Control, Passed, answer_in_pieces
from pipeline.stages.rows import table_from_ipc, table_to_ipc
from pipeline.support.errors import RunError

MakeStage = Callable[[], Stage]
_ERRORS: dict[bytes, type[Exception]] = {
    ERROR: RunError,
    NOT_MADE: NotStarted,
    RAISED: StageRaised,
    DEVICE: DeviceRaised,
}


class IsolatedStage:
    """Runs a stage in a separate process that may die.

    The process starts with the first unit, and again after a death or an exception: what raised once may
    leave a model or a device that answers nothing any more.
    """

    def __init__(self, make: MakeStage) -> None:
        self._make = make
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Run a unit through the stage; UnitFault if it raises an exception or the process dies."""
        (table,) = self.stream(batch)
        return table

    def stream(self, batch: pa.Table) -> Iterator[pa.Table]:
        """Yield each table of a stage that returns several; UnitFault as in a call.

        Raises:
            RunError: the stage raised what ends the run.
            NotStarted: the stage could not be made.
        """
        if self._process is None:
            self._start()
        try:
            self._commands.send_bytes(table_to_ipc(batch))
            while (message := self._answers.recv_bytes()) != DONE:
                if (kind := _ERRORS.get(message[:1])) is not None:
                    self._stop()
                    raise kind(message[1:].decode())
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


def answer_isolated(name: str, make: MakeStage, batch: pa.Table, patience: int | None = None) -> Passed:
    """Run a unit through the stage `name` in a separate process: whole, then sample by sample.

    Args:
        patience: see `answer_in_pieces`.

    Raises:
        RunError: the stage cannot be made, or does not even pass failed rows on.
    """
    with IsolatedStage(make) as process:
        return answer_in_pieces(name, process, batch, patience)


def answer_controlled(
    name: str,
    make: MakeStage,
    batch: pa.Table,
    known: Callable[[], pa.Table | None],
    patience: int | None = None,
) -> Passed:
    """Run a unit in a separate process on a GPU, and tell its faults from the GPU's.

    Before any row fails, a sample that was answered before is tried in the same way.

    Args:
        known: returns a packed sample that another unit's process has answered.

    Raises:
        DeviceBroken: the sample that was answered before is answered no more; or nothing ever was, and the
            processes die or meet errors of the device.
        RunError: as `answer_isolated` does; NotStarted: the stage cannot be made here.
    """
    with IsolatedStage(make) as process:
        return answer_in_pieces(name, process, batch, patience, control_of(process, known))


def control_of(run: Run, known: Callable[[], pa.Table | None]) -> Control:
    """Make the function that tries a sample that was answered before.

    Args:
        run: the stage; it raises UnitFault.
        known: as for `answer_controlled`.
    """

    def control(own: pa.Table | None) -> bool:
        sample = known() if own is None else own
        if sample is None:
            return False
        try:
            run(sample)
        except UnitFault as fault:
            raise DeviceBroken(f"{fault} on a sample that was answered before") from None
        return True

    return control
