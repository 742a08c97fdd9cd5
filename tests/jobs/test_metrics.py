"""A real run with `metrics_port` and `log=json`: what Prometheus would read, and what stderr holds."""

import json
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.run.prometheus import DECLARED, STAGES
from tests.support.processes import run
from tests.support.tars import write_tar

# the command, scraped all the while: like Prometheus it keeps the last value of each series, since Ray
# drops a gauge that was not set for some report intervals, be it that a run takes that long to end
CODE = """
import contextlib, http.client, sys, threading, time, urllib.request
from jobs.common.entry import run_command

port, units, *overrides = sys.argv[1:]
seen = {}

def scrape():
    with contextlib.suppress(OSError, http.client.HTTPException):
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
            for line in answer.read().decode().splitlines():
                if line.startswith("ray_trimline_"):
                    name, value = line.rsplit(" ", 1)
                    seen[name] = value

def watch():
    while True:
        scrape()
        time.sleep(0.3)

threading.Thread(target=watch, daemon=True).start()
status = run_command("annotate", overrides)
until = time.monotonic() + 60
while time.monotonic() < until:
    if any(name.startswith("ray_trimline_units_total{") and float(value) == int(units)
           for name, value in list(seen.items())):
        break
    time.sleep(0.5)
time.sleep(2)  # what was counted a moment later
for name, value in list(seen.items()):
    print(name, value)
sys.exit(status)
"""
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def done(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[subprocess.CompletedProcess, dict]:
    """The run's process, and its summary."""
    folder = tmp_path_factory.mktemp("metrics")
    write_tar(folder / "a.tar", 5, questions=2)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-c", CODE, str(port), "3", f"metrics_port={port}", "log=json", "model=random"]
    command += ["source=webdataset", "source.path=a.tar", "task=vqa", "unit_samples=2", "output=out"]
    command += ["decoding.max_new_tokens=2", "cluster.encode.threads=1", "cluster.generate.threads=1"]
    ended = run(command, folder, RAY_metrics_report_interval_ms="500", XDG_CACHE_HOME=str(cache.parent))
    assert ended.returncode == 0, ended.stderr
    return ended, json.loads((folder / "out" / "summary.json").read_text())


def series(text: str) -> dict[tuple, float]:
    """Our lines of the exposition: (name, our tags, sorted) -> value."""
    found = {}
    for name, tags, value in re.findall(r"^(ray_trimline_\w+)\{(.*)\} (\S+)$", text, re.MULTILINE):
        pairs = dict(re.findall(r'(\w+)="([^"]*)"', tags))
        own = {tag: pairs[tag] for tag in ("arm", "stage", "status", "le") if tag in pairs}
        assert len(pairs["run_id"]) == 16
        found[name, *sorted(own.items())] = float(value)
    return found


def test_prometheus_reads_what_the_summary_says(done):
    ended, summary = done
    found = series(ended.stdout)
    assert {name for name, *_ in found} == {name for metric in DECLARED for name in metric.exported}
    arm = ("arm", "trim")
    for status, count in summary["status"].items():
        assert found["ray_trimline_requests_total", arm, ("status", status)] == count
    for name in ("visual_tokens_full", "visual_tokens_kept", "generated_tokens"):
        assert found[f"ray_trimline_{name}_total", arm] == summary["tokens"][name] > 0
    assert found["ray_trimline_units_total",] == summary["units"] == 3
    assert found["ray_trimline_samples_total",] == summary["samples"] == 5
    planned = found["ray_trimline_source_bytes_planned",]
    assert found["ray_trimline_source_bytes_total",] == planned > 0
    for stage in STAGES:
        assert found["ray_trimline_stage_seconds_count", ("stage", stage)] == 3
        assert found["ray_trimline_stage_seconds_bucket", ("le", "+Inf"), ("stage", stage)] == 3
        assert found["ray_trimline_units_in_stage", ("stage", stage)] == 0, "nothing is under way any more"
    assert found["ray_trimline_stage_seconds_sum", ("stage", "generate")] > 0


def test_every_line_of_stderr_is_an_event_of_the_run(done):
    ended, summary = done
    told = [json.loads(line) for line in ended.stderr.splitlines()]
    assert {"start", "progress", "end"} <= {line["event"] for line in told}
    assert len({line["run_id"] for line in told}) == 1 and told[0]["run_id"] and told[0]["output"] == "out"
    assert told[-1]["event"] == "end" and (told[-1]["arm"], told[-1]["exit_status"]) == ("trim", 0)
    assert {name: told[-1][name] for name in ("rows", "status", "tokens")} == {
        name: summary[name] for name in ("rows", "status", "tokens")
    }
    assert ended.stdout.startswith("ray_trimline_"), "stdout is not told the table, too"
