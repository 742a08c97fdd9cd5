"""Run slices without Ray, and `finish`, in processes that kill themselves at a chosen change of a file.

A change is opening for writing, renaming, linking or removing a file of the output. The process dies by
SIGKILL just before it, so that a seed leads to the same crash again. `python -m tests.support.crashing JOB`
does a job, has then imported what others need, and forks a process for each of them, which takes no time.
"""

import json
import os
import pickle
import re
import signal
import subprocess
import sys
import traceback
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

from pipeline.run.config import RunConfig
from pipeline.run.finish import Finishing, finish_outputs
from pipeline.storage.uris import Storage
from pipeline.support.errors import TrimlineError
from tests.support.stub_run import stub_run

ROOT = Path(__file__).parents[2]
_WRITING = os.O_WRONLY | os.O_RDWR


@dataclass(frozen=True)
class Crash:
    """Says when a job dies: just before the change `number`, from 1, of those that `what` is found in.

    `what` is a regular expression for lines such as `rename slices/0-of-4.json`.
    """

    what: str
    number: int


@dataclass(frozen=True)
class Job:
    """Says what a process does: it runs a pickled configuration, or `finish` if there is none."""

    output: str
    config: str | None = None
    crash: Crash | None = None


@dataclass(frozen=True)
class Ended:
    """Tells how a job has ended: with a status and a line, or killed before a change (`status` None)."""

    status: int | None
    text: str


def save(config: RunConfig, file: Path) -> str:
    """Write a configuration for a job."""
    file.write_bytes(pickle.dumps(config))
    return str(file)


class Forks:
    """Starts the process that forks, which does the job `first` itself, and gives it jobs."""

    def __init__(self, first: Job) -> None:
        self._first = first

    def __enter__(self) -> Self:
        command = [sys.executable, "-m", "tests.support.crashing", json.dumps(asdict(self._first))]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "cwd": ROOT}
        self._process = subprocess.Popen(command, **pipes)
        (ended,) = self._ended(1)
        assert ended.status == 0, ended.text
        return self

    def __exit__(self, *_: object) -> None:
        self._process.stdin.close()
        self._process.wait(60)

    def __call__(self, jobs: Sequence[Job]) -> list[Ended]:
        """Run jobs, all at once; returns how each has ended."""
        self._process.stdin.write(json.dumps([asdict(job) for job in jobs]) + "\n")
        self._process.stdin.flush()
        return self._ended(len(jobs))

    def _ended(self, count: int) -> list[Ended]:
        ended: dict[int, Ended] = {}
        while len(ended) < count:
            line = self._process.stdout.readline()
            assert line, "the process that forks has died"
            number, status, text = json.loads(line)
            ended[number] = Ended(status, text)
        return [ended[number] for number in range(count)]


def _serve() -> None:
    """Do the first job, then fork a process for each job of a line from stdin, and wait for all."""
    _do(0, json.loads(sys.argv[1]))
    for line in sys.stdin:
        pids = []
        for number, job in enumerate(json.loads(line)):
            pid = os.fork()
            if not pid:
                _work(number, job)
            pids.append(pid)
        for number, pid in enumerate(pids):
            _, state = os.waitpid(pid, 0)
            if state and os.waitstatus_to_exitcode(state) != -signal.SIGKILL:  # it has told nothing
                _tell(number, 1, f"ended with {os.waitstatus_to_exitcode(state)}")


def _tell(number: int, status: int | None, text: str) -> None:
    os.write(1, (json.dumps([number, status, text]) + "\n").encode())


def _work(number: int, job: dict) -> None:
    """Do a job as the whole of this process."""
    try:
        if job["crash"]:
            _crash_at(number, job["output"], Crash(**job["crash"]))
        _do(number, job)
        os._exit(0)
    except BaseException:  # noqa: BLE001 - the frames above are those of the process that forks
        traceback.print_exc()
        os._exit(1)


def _do(number: int, job: dict) -> None:
    try:
        if job["config"] is None:
            ((_, outcome),) = finish_outputs(Finishing(output=job["output"]), Storage())
        else:
            outcome = stub_run(pickle.loads(Path(job["config"]).read_bytes()))
        _tell(number, outcome.status, outcome.message)
    except TrimlineError as error:
        _tell(number, 1, str(error))


def _crash_at(number: int, output: str, crash: Crash) -> None:
    left = crash.number

    def before(event: str, arguments: tuple) -> None:
        nonlocal left
        change = _change(event, arguments, output)
        if change and re.search(crash.what, change):
            left -= 1
            if not left:
                _tell(number, None, change)
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(before)


def _change(event: str, arguments: tuple, output: str) -> str | None:
    """Describe a change of a file of the output; None: the event is none."""
    if event == "open":
        path, _, flags = arguments
        if not flags & _WRITING:
            return None
    elif event in ("os.rename", "os.link"):
        path = arguments[1]
    elif event == "os.remove":
        path = arguments[0]
    else:
        return None
    with suppress(TypeError):  # a number: the file is open already
        path = os.fsdecode(path)
        if path.startswith(f"{output}/"):
            return f"{event.removeprefix('os.')} {path.removeprefix(f'{output}/')}"
    return None


if __name__ == "__main__":
    _serve()
