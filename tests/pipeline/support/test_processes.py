"""Work in several processes: in order, with its errors, and without a process left over."""

import os
import signal
from pathlib import Path

import pytest

from pipeline.support.errors import ConfigError, RunError
from pipeline.support.processes import FILES_A_PROCESS, each_of_many

MANY = 100 * FILES_A_PROCESS


def squared(number: int) -> tuple[int, int]:
    """Work that says which process did it."""
    return number * number, os.getpid()


def refused(number: int) -> int:
    """Work that fails at 70."""
    if number == 70:
        raise ConfigError("output: the file 70 cannot be read")
    return number


def broken(number: int) -> int:
    """Work that raises another library's exception."""
    return 1 // (number - 70)


def killed(number: int) -> int:
    """Work that kills its process."""
    if number == 70:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def unsendable(number: int) -> object:
    """Work whose result cannot travel."""
    return (lambda: number) if number == 70 else number


def test_few_files_are_read_by_threads_of_this_process():
    results = list(each_of_many(squared, range(200), costs=200))
    assert results == [(number * number, os.getpid()) for number in range(200)]


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one core has no use for processes")
def test_many_files_are_read_by_processes_in_order():
    results = list(each_of_many(squared, range(1000), costs=MANY, at_once=10))
    assert [number for number, _ in results] == [number * number for number in range(1000)]
    pids = {pid for _, pid in results}
    assert len(pids) >= 2 and os.getpid() not in pids
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one core has no use for processes")
@pytest.mark.parametrize(
    ("work", "kind", "text"),
    [
        (refused, ConfigError, "the file 70 cannot be read"),
        (broken, RunError, "ZeroDivisionError: "),
        (killed, RunError, "has died: signal 9"),
        (unsendable, RunError, "has died: exit status 1, .*pickle"),
    ],
)
def test_an_error_in_a_process_is_raised_here(work, kind, text):
    with pytest.raises(kind, match=text):
        list(each_of_many(work, range(1000), costs=MANY, at_once=10))
