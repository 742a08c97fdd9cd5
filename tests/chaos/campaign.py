"""Helpers of all campaigns: the reference run, choosing and killing workers, and checking the output."""

import json
import os
import random
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import duckdb
import pytest

from tests.support.processes import members, run
from tests.support.reference import QUESTIONS, SAMPLES, TRIMLINE, Reference
from tests.support.runs import lasting, rows

long = pytest.mark.skipif(not os.environ.get("TRIMLINE_CHAOS_ALL"), reason="takes minutes: make chaos")


@dataclass
class Campaign(Reference):
    """The undisturbed reference run, and a log of the faults in disturbed runs."""

    def log(self, fault: str, **details: Any) -> None:
        """Append a fault to the file $TRIMLINE_CHAOS_LOG, as a line of JSON."""
        line = json.dumps({"fault": fault, **details})
        print(line)
        if log_file := os.environ.get("TRIMLINE_CHAOS_LOG"):
            with Path(log_file).open("a") as file:
                print(line, file=file)


def prove(campaign: Campaign, output: Path, fault: str, **details: Any) -> None:
    """Finish an output, then check it with `trimline verify`, with DuckDB, and against the reference rows.

    A killed writer leaves a temporary file, which `repair=true` removes; nothing else may need repair.
    """
    began = time.monotonic()
    if not (output / "_SUCCESS").exists():
        result = run(campaign.command(str(output)), campaign.folder)
        assert result.returncode == 0, result.stderr
    seconds = time.monotonic() - began
    verified = run([TRIMLINE, "verify", f"output={output}", "deep=true", "repair=true"], campaign.folder)
    assert verified.returncode == 0, verified.stdout + verified.stderr
    lost, doubled = counted(output)
    assert lasting(rows(output)) == campaign.rows, "the answers are those of the undisturbed run"
    campaign.log(fault, rows_lost=lost, rows_doubled=doubled, recover_s=round(seconds, 1), **details)
    assert (lost, doubled) == (0, 0)


def counted(output: Path) -> tuple[int, int]:
    """Count lost and doubled rows with DuckDB, against the list of generated requests."""
    expected = [
        (f"{seed:03d}/{index:06d}", f"q{seed}-{index}-{number}")
        for seed, samples in enumerate(SAMPLES)
        for index in range(samples)
        for number in range(1 + index % QUESTIONS)
    ]
    with duckdb.connect() as database:
        database.execute("create table expected (sample_key varchar, question_id varchar)")
        database.executemany("insert into expected values (?, ?)", expected)
        database.execute(f"create view written as select * from read_parquet('{output}/data/*.parquet')")
        lost, doubled = (
            database.execute(query).fetchone()[0]
            for query in (
                "select count(*) from expected anti join written using (sample_key, question_id)",
                "select count(*) - count(distinct (sample_key, question_id)) from written",
            )
        )
        extra = database.execute(
            "select count(*) from written anti join expected using (sample_key, question_id)"
        ).fetchone()[0]
    assert extra == 0
    return lost, doubled


def files(output: Path) -> int:
    """Count the finished units."""
    return sum(1 for _ in (output / "data").glob("*.parquet")) if (output / "data").is_dir() else 0


def wait_until(holds: Callable[[], Any], process: subprocess.Popen, seconds: float = 240.0) -> Any:
    """Poll `holds` and return its first true value; None if the process ends first, or on timeout."""
    until = time.monotonic() + seconds
    while time.monotonic() < until and process.poll() is None:
        if value := holds():
            return value
        time.sleep(0.005)
    return None


def workers(session: int, *stages: str) -> list[int]:
    """Return the Ray workers of a session that work on one of the stages now, by their process titles."""
    pids = []
    for pid in members(session):
        try:
            title = Path(f"/proc/{pid}/cmdline").read_bytes()[:120].decode(errors="replace")
        except OSError:
            continue
        if title.startswith("ray::") and any(f"({stage})" in title for stage in stages):
            pids.append(pid)
    return pids


def kill(pids: list[int], chance: random.Random) -> int | None:
    """Send SIGKILL to a random process of the list; return its pid, or None if it had ended already."""
    if not pids:
        return None
    pid = chance.choice(pids)
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return None
    return pid


def kill_workers(process: subprocess.Popen, output: Path, chance: random.Random) -> dict[str, int]:
    """Kill a worker of each stage at a random moment of a run; return the finished units at each kill.

    `read` and `decode` come first, since they finish early.
    """
    killed: dict[str, int] = {}
    for stage in ("read", "decode", "encode", *chance.sample(["generate", "write"], 2)):
        moment = 0 if stage in ("read", "decode") else files(output) + chance.randrange(1, 4)
        wait_until(partial(_has_units, output, moment), process)
        pid = wait_until(partial(_kill_worker, process, stage, chance), process)
        assert pid, f"no worker of {stage} was caught at work after {killed}: not counted"
        killed[stage] = files(output)
    return killed


def _has_units(output: Path, count: int) -> bool:
    return files(output) >= count


def _kill_worker(process: subprocess.Popen, stage: str, chance: random.Random) -> int | None:
    return kill(workers(process.pid, stage), chance)
