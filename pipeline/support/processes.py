"""Maps a function over items in several processes, in order, and is what these processes run.

A process gets the function once, through a pipe that it inherits, and then lists of items, which it works on
in threads. It ends when the parent closes its end of the pipe, or has died. Nothing of the parent's own
program is run again, as `multiprocessing` would do.
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from itertools import islice
from multiprocessing.connection import Connection
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Generic, Self, TypeVar

from pipeline.support.errors import RunError, TrimlineError, described
from pipeline.support.parallel import THREADS, each

Item = TypeVar("Item")
Result = TypeVar("Result")

_ROOT = Path(__file__).resolve().parents[2]
FILES_A_PROCESS = 1000  # fewer are read by threads sooner than by a process that must first start
_MOST = 32  # processes
_END_S = 5.0  # how long a process that closed its pipe may take to end


def each_of_many(
    work: Callable[[Item], Result], items: Iterable[Item], *, costs: int, at_once: int = 64
) -> Iterator[Result]:
    """Yield `work(item)` of every item, in order: by threads, or by processes on all cores if that pays.

    Args:
        work: can be pickled; in another process it may raise exceptions of `pipeline.support.errors` alone.
        costs: how many small files will be read in all.
        at_once: how many items a process gets at a time.

    Raises:
        RunError: a process died, or raised another exception.
    """
    processes = min(len(os.sched_getaffinity(0)), _MOST, costs // FILES_A_PROCESS)
    if processes < 2:
        yield from each(work, items, THREADS)
        return
    with ExitStack() as stack:
        idle: SimpleQueue[_Process[Item, Result]] = SimpleQueue()
        for _ in range(processes):
            idle.put(stack.enter_context(_Process(work)))

        def in_process(some: list[Item]) -> list[Result]:
            process = idle.get()
            try:
                return process(some)
            finally:
                idle.put(process)

        for results in each(in_process, _lists(items, at_once), processes):
            yield from results


def _lists(items: Iterable[Item], length: int) -> Iterator[list[Item]]:
    remaining = iter(items)
    while some := list(islice(remaining, length)):
        yield some


class _Process(Generic[Item, Result]):
    """Works on lists of items in a process of its own."""

    def __init__(self, work: Callable[[Item], Result]) -> None:
        to_child, from_child = os.pipe(), os.pipe()
        self._work: Callable[[Item], Result] | None = work
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the process
        self._commands = Connection(to_child[1], readable=False)
        self._answers = Connection(from_child[0], writable=False)
        path = os.pathsep.join([str(_ROOT), *(folder for folder in sys.path if folder)])
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", __name__, str(to_child[0]), str(from_child[1])],
            env=os.environ | {"PYTHONPATH": path},
            pass_fds=(to_child[0], from_child[1]),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=self._errors,
            start_new_session=True,  # Ctrl-C in a terminal is not meant for it
        )
        os.close(to_child[0])
        os.close(from_child[1])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._commands.close()
        self._answers.close()
        self._process.kill()
        self._process.wait()
        self._errors.close()

    def __call__(self, items: list[Item]) -> list[Result]:
        """Work on some items; raises what the function raised."""
        try:
            if self._work is not None:  # once
                self._commands.send(self._work)
                self._work = None
            self._commands.send(items)
            answer: list[Result] | TrimlineError = self._answers.recv()
        except (EOFError, OSError):
            raise RunError(f"a helper process has died: {self._end()}") from None
        if isinstance(answer, TrimlineError):
            raise answer
        return answer

    def _end(self) -> str:
        """Describe how the process has ended, with the last line that it wrote to stderr."""
        try:
            status = self._process.wait(_END_S)
        except subprocess.TimeoutExpired:
            return "it answers no more"
        self._errors.seek(0)
        said = self._errors.read().decode(errors="replace").strip().splitlines()
        how = f"signal {-status}" if status < 0 else f"exit status {status}"
        return f"{how}, {said[-1].strip()[:300]}" if said else how


def work_for_parent(commands: Connection, answers: Connection) -> None:
    """Work on each list of items that arrives, until the parent closes its end."""
    try:
        work: Callable[[Any], Any] = commands.recv()  # from our own parent process
        while True:
            answers.send(_worked(work, commands.recv()))
    except (EOFError, BrokenPipeError):
        return


def _worked(work: Callable[[Any], Any], items: list[Any]) -> list[Any] | TrimlineError:
    try:
        return list(each(work, items, THREADS))
    except TrimlineError as error:
        return error
    except Exception as error:  # noqa: BLE001 - the parent raises it again
        return RunError(described(error))


if __name__ == "__main__":
    work_for_parent(
        Connection(int(sys.argv[1]), writable=False), Connection(int(sys.argv[2]), readable=False)
    )
