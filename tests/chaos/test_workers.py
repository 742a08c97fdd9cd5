"""SIGKILL of workers at random moments, and of writers before they rename their file."""

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
def test_a_worker_of_each_stage_is_killed(campaign, number):
    """In one run, at random moments; `read` and `decode` first, since they finish early."""
    chance, output = random.Random(number), campaign.folder / f"workers-{number}"
    process = start(campaign.command(str(output)), campaign.folder)
    killed = {}
    for stage in ("read", "decode", "encode", *chance.sample(["generate", "write"], 2)):
        early_stage = stage in ("read", "decode")
        moment = 0 if early_stage else files(output) + chance.randrange(1, 4)
        wait_until(partial(_reached, output, moment), process)
        pid = wait_until(partial(_caught, process, stage, chance), process)
        assert pid, f"no worker of {stage} was caught at work after {killed}: not counted"
        killed[stage] = files(output)
    began = time.monotonic()
    result = finish(process)
    assert result.returncode == 0, result.stderr
    prove(campaign, output, "workers killed", at=killed, finished_s=round(time.monotonic() - began, 1))


def _reached(output: Path, moment: int) -> bool:
    return files(output) >= moment


def _caught(process: subprocess.Popen, stage: str, chance: random.Random) -> int | None:
    return kill(workers(process.pid, stage), chance)


@long
def test_a_writer_is_killed_before_it_renames_its_file(campaign):
    """A kill counts only if it leaves a temporary file."""
    chance, output = random.Random(3), campaign.folder / "renaming"
    process = start(campaign.command(str(output)), campaign.folder)
    data = output / "data"

    def caught() -> bool:
        return bool(_temporary(data)) and kill(workers(process.pid, "write"), chance) is not None

    hits, leftovers = 0, set()
    while not leftovers and process.poll() is None:
        hits += bool(wait_until(caught, process, 30))
        names = _temporary(data)
        time.sleep(0.2)
        leftovers = names & _temporary(data)
    result = finish(process)
    assert leftovers, f"{hits} writers were killed, none of them before its rename: not counted"
    assert result.returncode == 0, result.stderr
    prove(campaign, output, "write worker killed before its rename", kills=hits)
    assert not _temporary(data)


def _temporary(data: Path) -> set[str]:
    return {file.name for file in data.glob(".*.tmp")} if data.is_dir() else set()
