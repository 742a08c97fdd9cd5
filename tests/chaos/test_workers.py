"""kill -9 of workers at random moments, between a temporary file and its name, and by poison."""

import os
import random
import subprocess
import time
from functools import partial
from pathlib import Path

import pytest

from tests.chaos.campaign import files, kill, long, prove, wait_until, workers
from tests.support.processes import finish, start

ROUNDS = int(os.environ.get("TRIMLINE_CHAOS_ROUNDS", "1"))
pytestmark = [pytest.mark.chaos, pytest.mark.timeout(3600)]


@pytest.mark.parametrize("number", range(ROUNDS))
def test_a_worker_of_each_stage_is_killed(made, number):
    """In one run, at random moments; first those that run ahead of the others and are done before long."""
    chance, output = random.Random(number), made.folder / f"workers-{number}"
    process = start(made.command(str(output)), made.folder)
    killed = {}
    for stage in ("read", "decode", "encode", *chance.sample(["generate", "write"], 2)):
        ahead = stage in ("read", "decode")
        moment = 0 if ahead else files(output) + chance.randrange(1, 4)
        wait_until(partial(_reached, output, moment), process)
        found = wait_until(partial(_caught, process, stage, chance), process)
        assert found, f"no worker of {stage} was caught at work after {killed}: not counted"
        killed[stage] = files(output)
    began = time.monotonic()
    done = finish(process)
    assert done.returncode == 0, done.stderr
    prove(made, output, "workers killed", at=killed, finished_s=round(time.monotonic() - began, 1))


def _reached(output: Path, moment: int) -> bool:
    return files(output) >= moment


def _caught(process: subprocess.Popen, stage: str, chance: random.Random) -> int | None:
    return kill(workers(process.pid, stage), chance)


@long
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
    assert not _temporary(data)


def _temporary(data: Path) -> set[str]:
    return {file.name for file in data.glob(".*.tmp")} if data.is_dir() else set()
