"""kill -9 of the driver and all of its processes at random moments; two at once; an interrupt."""

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
def test_the_driver_is_killed_at_random_moments(made):
    """One output, killed again and again: most moments fall between the first file and the last."""
    chance = random.Random(7)
    output, kills = made.folder / "driver", 0
    while kills < KILLS:
        if (output / "_SUCCESS").exists() or files(output) == len(made.names):
            prove(made, output, "driver killed", times=kills)
            output = made.folder / f"driver-{kills}"
        process = start(made.command(str(output)), made.folder)
        before, began = files(output), time.monotonic()
        if chance.random() < 0.8:  # else anywhere, start-up included
            wait_until(partial(_grown, output, before), process)
            moment = chance.uniform(0, 4)
        else:
            moment = chance.uniform(0, made.seconds)
        time.sleep(moment)
        hit = process.poll() is None
        if hit:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        end_session(process.pid)
        if hit:
            kills += 1
            after = time.monotonic() - began
            made.log("driver", killed_after_s=round(after, 1), files=files(output), of=len(made.names))
    prove(made, output, "driver killed", times=kills)


def _grown(output: Path, before: int) -> bool:
    return files(output) > before


@long
def test_two_runs_at_once_on_one_output_harm_nothing(made):
    output = made.folder / "twice"
    both = [start(made.command(str(output)), made.folder) for _ in range(2)]
    ended = [finish(process) for process in both]
    assert 0 in [done.returncode for done in ended], [done.stderr for done in ended]
    assert all(len(done.stderr.strip().splitlines()) < 40 for done in ended)
    prove(made, output, "two runs at once", statuses=[done.returncode for done in ended])


@long
@pytest.mark.parametrize("signal_number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_it_in_one_line(made, signal_number):
    output = made.folder / signal_number.name
    process = start(made.command(str(output)), made.folder)
    assert wait_until(lambda: files(output) > 1, process)
    os.kill(process.pid, signal_number)
    done = finish(process)
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last == "trimline annotate: interrupted; run the same command again to go on"
    assert "Traceback" not in done.stderr
    assert 0 < files(output) < len(made.names)
    prove(made, output, signal_number.name)


def test_a_finished_run_opens_no_shard(made, tmp_path):
    done = run(made.command(str(made.output)), made.folder)
    assert done.stdout.strip().splitlines()[-1] == "nothing to do: every shard was finished before"
