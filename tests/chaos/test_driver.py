"""SIGKILL of the driver's process group at random moments; two runs on one output; an interrupt."""

import os
import random
import signal
import time
from functools import partial
from pathlib import Path

import pytest

from tests.chaos.campaign import files, long, prove, wait_until
from tests.support.processes import end_session, finish, run, start

KILLS = int(os.environ.get("TRIMLINE_CHAOS_KILLS", "5"))
pytestmark = [pytest.mark.chaos, pytest.mark.timeout(3600)]


@long
def test_the_driver_is_killed_at_random_moments(campaign):
    """A run on one output is killed repeatedly, mostly between its first and its last file."""
    chance = random.Random(7)
    output, kills = campaign.folder / "driver", 0
    while kills < KILLS:
        if (output / "_SUCCESS").exists() or files(output) == len(campaign.names):
            prove(campaign, output, "driver killed", times=kills)
            output = campaign.folder / f"driver-{kills}"
        process = start(campaign.command(str(output)), campaign.folder)
        before, began = files(output), time.monotonic()
        if chance.random() < 0.8:  # otherwise at any time, also during start-up
            wait_until(partial(_grown, output, before), process)
            moment = chance.uniform(0, 4)
        else:
            moment = chance.uniform(0, campaign.seconds)
        time.sleep(moment)
        hit = process.poll() is None
        if hit:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        end_session(process.pid)
        if hit:
            kills += 1
            after = time.monotonic() - began
            campaign.log(
                "driver", killed_after_s=round(after, 1), files=files(output), of=len(campaign.names)
            )
    prove(campaign, output, "driver killed", times=kills)


def _grown(output: Path, before: int) -> bool:
    return files(output) > before


@long
def test_two_runs_at_once_on_one_output_harm_nothing(campaign):
    output = campaign.folder / "twice"
    processes = [start(campaign.command(str(output)), campaign.folder) for _ in range(2)]
    results = [finish(process) for process in processes]
    assert 0 in [result.returncode for result in results], [result.stderr for result in results]
    assert all(len(result.stderr.strip().splitlines()) < 40 for result in results)
    prove(campaign, output, "two runs at once", statuses=[result.returncode for result in results])


@long
@pytest.mark.parametrize("signal_number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_a_run_with_one_line(campaign, signal_number):
    output = campaign.folder / signal_number.name
    process = start(campaign.command(str(output)), campaign.folder)
    assert wait_until(lambda: files(output) > 1, process)
    os.kill(process.pid, signal_number)
    result = finish(process)
    assert result.returncode == 1
    last = result.stderr.strip().splitlines()[-1]
    assert last == "trimline annotate: interrupted; run the same command again to go on"
    assert "Traceback" not in result.stderr
    assert 0 < files(output) < len(campaign.names)
    prove(campaign, output, signal_number.name)


def test_a_finished_run_opens_no_shard(campaign, tmp_path):
    result = run(campaign.command(str(campaign.output)), campaign.folder)
    assert result.stdout.strip().splitlines()[-1] == "nothing to do: every shard was finished before"
