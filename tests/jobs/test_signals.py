"""Several signals in a row end a command as one does: with one line, status 1, and what was finished kept."""

import os
import signal
import socket
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from pipeline.output.units import Unit
from tests.support.commands import TRIMLINE
from tests.support.processes import WITHOUT_RAY, finish, members, start

LINE = "trimline annotate: interrupted; run the same command again to go on\n"
WITHIN_S = 400
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def begin(folder, *overrides: str) -> subprocess.Popen:
    command = [TRIMLINE, "annotate", "source.path=pictures", "output=out", "unit_samples=1", *overrides]
    return start(command, folder, **WITHOUT_RAY)


def send(process: subprocess.Popen, number: int, times: int) -> None:
    """Send signals within a second, to the command alone."""
    for _ in range(times):
        if process.poll() is None:
            os.kill(process.pid, number)
        time.sleep(0.8 / times)


def wait_until(condition, process: subprocess.Popen) -> None:
    until = time.monotonic() + WITHIN_S
    while not condition():
        assert process.poll() is None and time.monotonic() < until, "the moment did not come"
        time.sleep(0.01)


def has_imported_hydra(process: subprocess.Popen):
    """Tell when a command composes its configuration: compiled packages follow, Hydra has none of its own."""
    return lambda: "yaml" in Path(f"/proc/{process.pid}/maps").read_text()


def units_of(folder) -> dict[str, int]:
    data = folder / "out" / "data"
    files = data.iterdir() if data.is_dir() else ()
    return {file.name: file.stat().st_mtime_ns for file in files if Unit.of_file(file.name)}


MOMENTS = {
    "while it imports": lambda folder, process: has_imported_hydra(process),
    "before Ray": lambda folder, process: (folder / "out" / "run.json").exists,
    "while Ray starts": lambda folder, process: lambda: len(members(process.pid)) > 1,
    "while it runs": lambda folder, process: lambda: units_of(folder),
    "at the end": lambda folder, process: (folder / "out" / "summary.json").exists,
}


@pytest.mark.parametrize(
    ("moment", "times"),
    [
        ("while it imports", 5),
        ("before Ray", 2),
        ("before Ray", 5),
        ("while Ray starts", 3),
        ("while it runs", 2),
        ("while it runs", 5),
        ("at the end", 5),
    ],
)
def test_several_ctrl_c_are_one(folder, moment, times):
    process = begin(folder)
    wait_until(MOMENTS[moment](folder, process), process)
    before = units_of(folder)
    send(process, signal.SIGINT, times)
    result = finish(process)
    printed = [line for line in result.stderr.splitlines(keepends=True) if "samples | " not in line]
    ended = (folder / "out" / "_SUCCESS").exists() and result.stdout.endswith("done\n")
    assert (result.returncode, printed) == ((0, []) if ended else (1, [LINE])), result.stderr
    assert before.items() <= units_of(folder).items(), "what was finished stays"


@contextmanager
def silent_server():
    """Accept connections at an address of this host, and never answer."""
    with socket.create_server(("127.0.0.2", 0), backlog=100) as server:
        yield f"127.0.0.2:{server.getsockname()[1]}"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_end_the_wait_for_a_cluster(folder, number):
    with silent_server() as place:
        process = begin(folder, "cluster=ray", f"cluster.address={place}", "cluster.connect_s=1000")
        first = process.stderr.readline()
        assert first.startswith(f"waiting up to cluster.connect_s=1000 s for a Ray cluster at {place}"), first
        send(process, number, 3)
        result = finish(process)
    assert (result.returncode, result.stderr) == (1, LINE)


def test_a_shell_that_turned_ctrl_c_off_keeps_it_off(folder):
    command = f"trap '' INT; exec {TRIMLINE} annotate source.path=pictures output=out cluster.connect_s=0"
    process = start(["sh", "-c", command], folder, **WITHOUT_RAY)
    wait_until(has_imported_hydra(process), process)
    send(process, signal.SIGINT, 2)
    result = finish(process)
    assert result.returncode == 2 and "cluster.connect_s must be" in result.stderr
