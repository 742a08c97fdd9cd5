"""kill -9 of workers at random moments, between a temporary file and its name, and by poison."""

import os
import random
import time
from pathlib import Path

import pytest
from campaign import files, kill, prove, wait_until, workers
from processes import finish, start

ROUNDS = int(os.environ.get("TRIMLINE_CHAOS_ROUNDS", "1"))
pytestmark = [pytest.mark.chaos, pytest.mark.timeout(3600)]


@pytest.mark.parametrize("number", range(ROUNDS))
@pytest.mark.parametrize("stage", ["encode", "generate", "decode", "read"])
def test_a_worker_is_killed(made, stage, number):
    chance, output = random.Random(f"{stage} {number}"), made.folder / f"{stage}-{number}"
    process = start(made.command(str(output)), made.folder)
    moment = 0 if stage == "read" else chance.randrange(1, len(made.names) // 2)
    wait_until(lambda: files(output) >= moment, process)
    killed = wait_until(lambda: kill(workers(process.pid, stage), chance), process)
    assert killed, f"no worker of {stage} was caught at work: not counted"
    at, began = files(output), time.monotonic()
    done = finish(process)
    assert done.returncode == 0, done.stderr
    prove(made, output, f"{stage} worker killed", files=at, finished_s=round(time.monotonic() - began, 1))


def test_a_writer_is_killed_between_its_temporary_file_and_the_name(made):
    """Counted only if a temporary file is left behind."""
    chance, output = random.Random(3), made.folder / "renaming"
    process = start(made.command(str(output)), made.folder)
    data = output / "data"

    def caught() -> bool:
        return bool(_temporary(data)) and kill(workers(process.pid, "write"), chance) is not None

    hits, left = 0, set()
    while not left and process.poll() is None:
        hits += bool(wait_until(caught, process, 30))
        there = _temporary(data)
        time.sleep(0.2)
        left = there & _temporary(data)
    done = finish(process)
    assert left, f"{hits} writers were killed, none of them between the two: not counted"
    assert done.returncode == 0, done.stderr
    prove(made, output, "write worker killed before its rename", kills=hits)


def _temporary(data: Path) -> set[str]:
    return {file.name for file in data.glob(".*.tmp")} if data.is_dir() else set()
