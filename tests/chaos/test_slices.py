"""Slices of one plan are killed, at once and again, and then `finish`: nothing is lost or doubled."""

import json
import os
import random
import shutil
import signal
import subprocess
import time
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from pipeline.models.demo.random_weights import make_random
from pipeline.output.plan import load_plan
from pipeline.run.slices import parse_slice
from pipeline.sources.webdataset import WebDataset
from pipeline.storage.uris import Storage
from pipeline.verify.verify import Verification, verify
from tests.chaos.campaign import TRIMLINE, Campaign, long, prove, wait_until
from tests.support.crashing import Crash, Forks, Job, save
from tests.support.processes import end_session, finish, start
from tests.support.runs import lasting, make_config, rows, unit_names
from tests.support.tars import write_tar

KILLS = int(os.environ.get("TRIMLINE_CHAOS_KILLS", "5"))
pytestmark = [pytest.mark.chaos, pytest.mark.timeout(3600)]
HERE = Storage()

# Where the process of a slice dies, and how many of these changes it makes at most.
OF_SLICE = {
    "": 50,
    "plan/|run.json": 4,
    "slices/": 2,  # its note
    "open data/": 6,
    "rename data/": 6,
    "rename data/.*-end": 2,
    "open done/": 4,  # the first of them: all units are there, and no sums
    "rename done/.*keys": 2,
    "rename done/.*json": 2,
}
OF_FINISH = {"": 6, "done/": 4, "summary.json": 2, "README.md": 2, "_SUCCESS": 2}
# Figures of summary.json that do not depend on times and the number of starts.
OF_ROWS = ("shards", "units", "samples", "rows", "status", "tokens", "failed_shards", "census", "repeated")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A folder with eight tars, and the output `one` of an undisturbed run of them."""
    folder = tmp_path_factory.mktemp("slices")
    make_random(folder / "checkpoint")
    for number in range(8):
        write_tar(folder / "tars" / f"{number}.tar", 6, seed=number, questions=2, width=24)
    return folder


@pytest.fixture(scope="module")
def forks(whole):
    config = save(config_of(whole, whole / "one"), whole / "one.pickle")
    with Forks(Job(str(whole / "one"), config)) as forks:
        yield forks


def config_of(folder, output, part=None):
    source = WebDataset(path=str(folder / "tars"))
    config = make_config(folder / "checkpoint", source, output, unit_samples=2)
    return replace(config, options=replace(config.options, slice=part))


@pytest.mark.parametrize("seed", range(KILLS))
def test_slices_that_die_at_any_change_of_a_file_make_the_files_of_one_run(whole, forks, tmp_path, seed):
    """Four slices at once, one of them twice; each dies up to three times, and `finish` up to three times."""
    chance, output = random.Random(seed), str(tmp_path / "out")
    configs = {
        part: save(config_of(whole, output, part), tmp_path / f"{part[0]}.pickle")
        for part in ("0/4", "1/4", "2/4", "3/4")
    }

    def run(parts, die):
        jobs = [Job(output, configs.get(part), crash(chance, part) if die else None) for part in parts]
        ended = forks(jobs)
        for part, end in zip(parts, ended, strict=True):
            print(json.dumps({"seed": seed, "part": part, "status": end.status, "end": end.text}))
        assert {end.status for end in ended} <= {0, None}, "those that are not killed end well"
        return sum(end.status is None for end in ended)

    crashes = 0
    for _ in range(3):
        crashes += run([*configs, chance.choice(list(configs))], die=True)
    assert crashes >= 5, "too few for a proof"
    assert run([*configs, chance.choice(list(configs))], die=False) == 0
    names = [file.name for file in Path(output, "data").iterdir() if not file.name.startswith(".")]
    assert sorted(names) == unit_names(whole / "one"), "but for the temporary files of those that died"
    if chance.random() < 0.5:
        shutil.rmtree(Path(output, "done"))
    for _ in range(3):
        run(["finish"], die=True)
    assert run(["finish"], die=False) == 0
    require_equal(Path(output), whole / "one")


def crash(chance: random.Random, part: str) -> Crash:
    """Choose where a job dies."""
    places = OF_FINISH if part == "finish" else OF_SLICE
    what = chance.choice(list(places))
    return Crash(what, chance.randint(1, places[what]))


def require_equal(output: Path, one: Path) -> None:
    """Check that an output is whole, and the same as that of an undisturbed run but for temporary files."""
    (found,) = verify(Verification(output=str(output), deep=True), HERE)
    assert not [finding for finding in found.findings if finding.kind == "damaged"], "before any repair"
    (found,) = verify(Verification(output=str(output), deep=True, repair=True), HERE)
    assert found.ok, found.findings
    assert all(Path(file).name.startswith(".") for file in found.removed), found.removed
    (found,) = verify(Verification(output=str(output), deep=True), HERE)
    assert found.findings == [] and (output / "_SUCCESS").exists()
    assert lasting(rows(output)) == lasting(rows(one)) and unit_names(output) == unit_names(one)
    summaries = [json.loads((place / "summary.json").read_text()) for place in (output, one)]
    of_rows = [{name: summary.get(name) for name in OF_ROWS} for summary in summaries]
    assert of_rows[0] == of_rows[1]
    sums = [sorted(file.name for file in (place / "done").iterdir()) for place in (output, one)]
    assert sums[0] == sums[1]


@long
def test_drivers_of_slices_are_killed_with_all_their_workers(campaign):
    """Three slices at once, one of them twice, each with a Ray of its own: all that it runs is killed."""
    chance, left, number = random.Random(17), KILLS, 0
    while left > 0:
        output = campaign.folder / f"slices-{number}"
        kills = _run_slices(campaign, output, max(1, left - 3), chance)
        kills += _finish(campaign, output, left - kills, chance)
        prove(campaign, output, "slices killed", times=kills)
        left, number = left - kills, number + 1


def _run_slices(campaign: Campaign, output: Path, most: int, chance: random.Random) -> int:
    """Run the slices until all have ended well; returns how many were killed."""
    parts, kills, failures = ["0/3", "1/3", "2/3", "1/3"], 0, []
    running = [(part, _start(campaign, output, part)) for part in parts]
    while running:
        part, process = chance.choice(running)
        moment = chance.choice(list(MOMENTS)) if kills < most else "end"
        if moment == "any time":
            time.sleep(chance.uniform(0, campaign.seconds))
        elif moment in MOMENTS:
            wait_until(partial(MOMENTS[moment], campaign, output, part, time.time()), process, 60)
        else:
            process.wait(600)
        place = running.index((part, process))
        if process.poll() is None and moment != "end":
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            end_session(process.pid)
            kills += 1
            campaign.log("slice", slice=part, moment=moment, files=len(list(output.glob("data/*.parquet"))))
            running[place] = (part, _start(campaign, output, part))
        elif process.poll() is not None:
            result = finish(process)
            failures += [result.stderr] if result.returncode else []
            assert len(failures) < 3, failures
            running[place : place + 1] = [(part, _start(campaign, output, part))] if result.returncode else []
    campaign.log("slices ended", kills=kills, failures=failures)
    return kills


def _start(campaign: Campaign, output: Path, part: str) -> subprocess.Popen:
    return start(campaign.command(str(output), f"slice={part}"), campaign.folder)


def _has_newer(output: Path, pattern: str, since: float) -> bool:
    with suppress(FileNotFoundError):  # renamed since it was listed
        return any(file.stat().st_mtime > since for file in output.glob(pattern))
    return False


def _units_grow(campaign: Campaign, output: Path, part: str, since: float) -> bool:
    return _has_newer(output, "data/[0-9]*.parquet", since)


def _is_noted(campaign: Campaign, output: Path, part: str, since: float) -> bool:
    """Tell whether the slice is writing its note, or has just written it."""
    return _has_newer(output, f"slices/*{part.replace('/', '-of-')}*", since)


def _lacks_only_sums(campaign: Campaign, output: Path, part: str, since: float) -> bool:
    """Tell whether the last unit of the slice has come, but not the sums of all its shards."""
    if not (output / "plan").is_dir() or (plan := load_plan(str(output), HERE)) is None:
        return False
    own = parse_slice(part).shards_of(plan)
    names = [name for name in campaign.names if int(name[:6]) in own]
    lacking = [shard for shard in own if not (output / "done" / f"{shard:06d}.json").exists()]
    return bool(lacking) and all((output / "data" / name).exists() for name in names)


MOMENTS = {
    "any time": None,
    "its note": _is_noted,
    "a unit more": _units_grow,
    "all units, not all sums": _lacks_only_sums,
}


def _finish(campaign: Campaign, output: Path, most: int, chance: random.Random) -> int:
    """Kill `finish` up to three times; then run it to its end. Returns how often it was killed."""
    command, kills = [TRIMLINE, "finish", f"output={output}"], 0
    for _ in range(min(3, most)):
        process = start(command, campaign.folder)
        time.sleep(chance.uniform(0.5, 4))
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            kills += 1
            campaign.log("finish", files=sorted(file.name for file in output.iterdir()))
        process.communicate()
        end_session(process.pid)
    result = finish(start(command, campaign.folder))
    assert result.returncode == 0, result.stderr
    return kills
