"""A run that is killed with -9 goes on where it stopped: the real command, the real Ray, a real SIGKILL."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from pipeline.output.units import Finished, Unit
from tests.support.processes import end_session, finish, start
from tests.support.runs import lasting, rows, unit_names
from tests.support.tars import write_tar

TRIMLINE = Path(sys.executable).with_name("trimline")
STARTS_WITHIN_S = 240
pytestmark = pytest.mark.timeout(900)  # five starts of Ray
SETTINGS = [
    *("source=webdataset", "task=vqa", "reducer=trim", "decoding.max_new_tokens=2", "unit_bytes=4000"),
    *("cluster.encode.threads=1", "cluster.generate.threads=1", "device=cpu"),
]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Two tars, an environment, and the output of a run that nothing disturbed."""
    folder = tmp_path_factory.mktemp("kill")
    for seed in range(2):
        write_tar(folder / "tars" / f"{seed}.tar", 48, seed=seed, questions=2)
    made = SimpleNamespace(folder=folder, tars=folder / "tars", whole=folder / "whole")
    done = finish(begin(made, made.whole))
    assert done.returncode == 0, done.stderr
    made.names = unit_names(made.whole)
    made.rows = lasting(rows(made.whole))
    return made


def test_killed_resumed_finished_and_mended(place):
    units = [Unit.of_file(name) for name in place.names]
    assert len(units) > 40
    assert len({unit.stop - unit.first for unit in units}) > 2, "ranges must vary for this to mean much"

    output = place.folder / "killed"
    kill_midway(place, output)
    there = stamps(output)
    assert not (output / "_SUCCESS").exists()
    assert there.keys() < set(place.names), "what exists under a unit's name is a unit of this input"
    rows(output)  # and whole: each file can be read, its pages' checksums are right

    done = finish(begin(place, output))
    assert (done.returncode, last_line(done)) == (0, "done"), done.stderr
    after = stamps(output)
    assert sorted(after) == place.names
    assert {name: after[name] for name in there} == there, "only what was missing was made"
    assert lasting(rows(output)) == place.rows

    # finished: it opens no shard, for there is none left to open
    place.tars.rename(place.folder / "gone")
    done = finish(begin(place, output))
    assert (done.returncode, last_line(done)) == (0, "nothing to do: every shard was finished before")
    assert stamps(output) == after

    # a hole in the middle of a finished shard
    hole = units[len(units) // 4]
    assert hole.first > 0
    assert not hole.end
    (output / "data" / hole.file_name).unlink()
    assert not Finished(stamps(output)).has_shard(hole.shard)
    done = finish(begin(place, output))
    assert done.returncode == 2, "it is not taken for finished: its shard is wanted, and is gone"
    (place.folder / "gone").rename(place.tars)
    done = finish(begin(place, output))
    assert (done.returncode, last_line(done)) == (0, "done"), done.stderr
    mended = stamps(output)
    assert mended.keys() == after.keys()
    assert [name for name in mended if mended[name] != after[name]] == [hole.file_name]
    assert lasting(rows(output)) == place.rows
    assert json.loads((output / "summary.json").read_text())["starts"] == 3


def kill_midway(place, output: Path) -> None:
    """Start the command and kill -9 its process group once some files exist, but not all."""
    process = begin(place, output)
    data, began = output / "data", time.monotonic()
    try:
        while process.poll() is None and time.monotonic() - began < STARTS_WITHIN_S:
            if data.is_dir() and sum(1 for _ in data.glob("*.parquet")) >= len(place.names) // 5:
                break
            time.sleep(0.02)
        else:
            pytest.fail(f"no moment to kill it in: exit status {process.poll()}")
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    finally:
        end_session(process.pid)
    fell = (
        f"{time.monotonic() - began:.1f} s after the start, {len(stamps(output))} of {len(place.names)} files"
    )
    print(f"the kill fell {fell}")
    assert 0 < len(stamps(output)) < len(place.names), f"the kill fell too late to count: {fell}"


def begin(place, output: Path) -> subprocess.Popen:
    """The command, in a session, and so a process group, of its own."""
    return start(
        [TRIMLINE, "annotate", f"source.path={place.tars}", f"output={output}", *SETTINGS], place.folder
    )


def stamps(output: Path) -> dict[str, tuple[int, int]]:
    """Name -> (inode, modification time) of an output's units; their temporary files are no units."""
    found = {file.name: file.stat() for file in (output / "data").iterdir() if not file.name.startswith(".")}
    assert all(Unit.of_file(name) for name in found), list(found)
    return {name: (stat.st_ino, stat.st_mtime_ns) for name, stat in found.items()}


def last_line(done: subprocess.CompletedProcess) -> str:
    return done.stdout.strip().splitlines()[-1]
