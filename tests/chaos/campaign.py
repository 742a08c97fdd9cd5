"""What campaigns share: the input, the command as users run it, whom to kill, and the proof afterwards."""

import json
import os
import random
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
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
    """The undisturbed run, and what has been done to others."""

    def log(self, fault: str, **told: Any) -> None:
        """Write down a fault that fell: $TRIMLINE_CHAOS_LOG gets a line of JSON for each."""
        line = json.dumps({"fault": fault, **told})
        print(line)
        if place := os.environ.get("TRIMLINE_CHAOS_LOG"):
            with Path(place).open("a") as file:
                print(line, file=file)


def prove(made: Campaign, output: Path, fault: str, **told: Any) -> None:
    """Rerun if need be, then: Trimline's own proof, another program's count, and the answers themselves.

    A killed writer leaves its temporary file, which `repair=true` removes: nothing else may need repair.
    """
    began = time.monotonic()
    if not (output / "_SUCCESS").exists():
        done = run(made.command(str(output)), made.folder)
        assert done.returncode == 0, done.stderr
    seconds = time.monotonic() - began
    verified = run([TRIMLINE, "verify", f"output={output}", "deep=true", "repair=true"], made.folder)
    assert verified.returncode == 0, verified.stdout + verified.stderr
    lost, doubled = counted(output)
    assert lasting(rows(output)) == made.rows, "the answers are those of the undisturbed run"
    made.log(fault, rows_lost=lost, rows_doubled=doubled, recover_s=round(seconds, 1), **told)
    assert (lost, doubled) == (0, 0)


def counted(output: Path) -> tuple[int, int]:
    """Rows lost and doubled, by DuckDB over the files against the generator's own list."""
    expected = [
        (f"{seed:03d}/{index:06d}", f"q{seed}-{index}-{number}")
        for seed, samples in enumerate(SAMPLES)
        for index in range(samples)
        for number in range(1 + index % QUESTIONS)
    ]
    with duckdb.connect() as database:
        database.execute("create table expected (sample_key varchar, question_id varchar)")
        database.executemany("insert into expected values (?, ?)", expected)
        database.execute(f"create view found as select * from read_parquet('{output}/data/*.parquet')")
        lost, doubled = (
            database.execute(query).fetchone()[0]
            for query in (
                "select count(*) from expected anti join found using (sample_key, question_id)",
                "select count(*) - count(distinct (sample_key, question_id)) from found",
            )
        )
        extra = database.execute(
            "select count(*) from found anti join expected using (sample_key, question_id)"
        ).fetchone()[0]
    assert extra == 0
    return lost, doubled


def files(output: Path) -> int:
    """How many units are finished."""
    return sum(1 for _ in (output / "data").glob("*.parquet")) if (output / "data").is_dir() else 0


def wait_until(holds: Callable[[], Any], process: subprocess.Popen, seconds: float = 240.0) -> Any:
    """What `holds` gives once it is true; None if the process ended first, or it took too long."""
    until = time.monotonic() + seconds
    while time.monotonic() < until and process.poll() is None:
        if found := holds():
            return found
        time.sleep(0.005)
    return None


def workers(session: int, *stages: str) -> list[int]:
    """Ray's workers of a session that are at one of the stages at this moment; their titles say so."""
    found = []
    for pid in members(session):
        try:
            title = Path(f"/proc/{pid}/cmdline").read_bytes()[:120].decode(errors="replace")
        except OSError:
            continue
        if title.startswith("ray::") and any(f"({stage})" in title for stage in stages):
            found.append(pid)
    return found


def kill(pids: list[int], chance: random.Random) -> int | None:
    """kill -9 one of some processes; which one, None if it is gone already."""
    if not pids:
        return None
    pid = chance.choice(pids)
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return None
    return pid
