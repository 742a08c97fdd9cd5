"""A run whose workers and then itself are killed by SIGKILL continues from its finished units (real Ray)."""

import json
import os
import random
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from pipeline.output.units import Finished, Unit
from tests.chaos.campaign import kill_workers
from tests.support.processes import end_session, finish, start
from tests.support.runs import lasting

STARTS_WITHIN_S = 400
CHECKED = {"page_checksum_verification": True}
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]  # two starts of Ray, and one of the reference


def test_a_killed_run_with_a_deleted_unit_is_resumed_and_finished(reference, annotate):
    units = [Unit.of_file(name) for name in reference.names]
    assert len(units) > 40
    assert len({unit.stop - unit.first for unit in units}) > 2, "ranges must vary for this to mean much"

    output = reference.folder / "killed"
    kill_midway(reference, output)
    before = stamps(output)
    assert not (output / "_SUCCESS").exists()
    assert before.keys() < set(reference.names), "every file with a unit's name is a unit of this input"
    answers(output)  # each file is whole: it can be read, and its pages' checksums are right

    # a hole in the middle of a finished shard
    assert Finished(before).has_shard(0)
    hole = next(unit for unit in units if unit.shard == 0 and unit.first > 0)
    assert not hole.end
    (output / "data" / hole.file_name).unlink()
    assert not Finished(stamps(output)).has_shard(0)
    with gone(Path(reference.tars) / "0.tar"):
        line = annotate.refused(*reference.overrides(str(output)))
    assert "shard 0 has changed or is gone" in line, "the shard counts as unfinished and is read first"

    result = finish(begin(reference, output))
    assert (result.returncode, last_line(result.stdout)) == (0, "done"), result.stderr
    after = stamps(output)
    assert sorted(after) == reference.names
    kept = {name: stamp for name, stamp in before.items() if name != hole.file_name}
    assert {name: after[name] for name in kept} == kept, "only what was missing was made"
    assert lasting(answers(output)) == reference.rows
    assert json.loads((output / "summary.json").read_text())["starts"] == 2

    # finished: a rerun opens no shard, so the input may be gone
    with gone(Path(reference.tars)):
        status, printed, _ = annotate(*reference.overrides(str(output)))
    assert (status, last_line(printed)) == (0, "nothing to do: every shard was finished before")
    assert stamps(output) == after


@contextmanager
def gone(path: Path) -> Iterator[None]:
    """Rename a file or a folder away, and back afterwards."""
    path.rename(path.with_name("gone"))
    try:
        yield
    finally:
        path.with_name("gone").rename(path)


def kill_midway(reference, output: Path) -> None:
    """Start the command, kill a worker of each stage, and later all processes."""
    process = begin(reference, output)
    data, began = output / "data", time.monotonic()
    try:
        kill_workers(process, output, random.Random(0))
        while process.poll() is None and time.monotonic() - began < STARTS_WITHIN_S:
            names = [file.name for file in data.glob("*.parquet")] if data.is_dir() else []
            if len(names) >= len(reference.names) // 5 and Finished(names).has_shard(0):
                break
            time.sleep(0.02)
        else:
            pytest.fail(f"no moment to kill it in: exit status {process.poll()}")
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    finally:
        end_session(process.pid)
    count = len(stamps(output))
    moment = f"{time.monotonic() - began:.1f} s after the start, {count} of {len(reference.names)} files"
    print(f"the kill fell {moment}")
    assert 0 < count < len(reference.names), f"the kill fell too late to count: {moment}"


def begin(reference, output: Path) -> subprocess.Popen:
    """Start the command in its own session and process group."""
    return start(reference.command(str(output)), reference.folder)


def stamps(output: Path) -> dict[str, tuple[int, int]]:
    """Return name -> (inode, modification time) of an output's units, without temporary files."""
    stats = {file.name: file.stat() for file in (output / "data").iterdir() if not file.name.startswith(".")}
    assert all(Unit.of_file(name) for name in stats), list(stats)
    return {name: (stat.st_ino, stat.st_mtime_ns) for name, stat in stats.items()}


def answers(output: Path) -> list[dict[str, Any]]:
    """Return the rows of an output's units, without the temporary files of killed writers."""
    tables = (pq.read_table(output / "data" / name, **CHECKED) for name in sorted(stamps(output)))
    return [row for table in tables for row in table.to_pylist()]


def last_line(text: str) -> str:
    return text.strip().splitlines()[-1]
