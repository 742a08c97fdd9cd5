"""SIGKILL of workers at random moments, and of writers before they rename their file."""

import os
import random
import time
from pathlib import Path

import pytest

from tests.chaos.campaign import kill, kill_workers, long, prove, wait_until, workers
from tests.support.processes import finish, start

ROUNDS = int(os.environ.get("TRIMLINE_CHAOS_ROUNDS", "1"))
pytestmark = [pytest.mark.chaos, pytest.mark.timeout(3600)]


@long
@pytest.mark.parametrize("number", range(ROUNDS))
def test_a_worker_of_each_stage_is_killed(campaign, number):
    """The same is done once to the first run of tests/jobs/test_kill.py."""
    chance, output = random.Random(number), campaign.folder / f"workers-{number}"
    process = start(campaign.command(str(output)), campaign.folder)
    killed = kill_workers(process, output, chance)
    began = time.monotonic()
    result = finish(process)
    assert result.returncode == 0, result.stderr
    prove(campaign, output, "workers killed", at=killed, finished_s=round(time.monotonic() - began, 1))


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
