"""One real run that many tests inspect: a user's own reducer, scraped metrics, JSON log."""

import json
import os
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.processes import run
from tests.support.tars import write_tar

SAMPLES, UNITS = 5, 3
MIDDLE = '''
from dataclasses import dataclass
from typing import ClassVar

import torch

from trim import Reduced, VisualTokens


@dataclass(frozen=True)
class Middle:
    """Keeps the middle square of `side` x `side` patches."""

    side: int = 4
    needs: ClassVar[frozenset] = frozenset()

    def __post_init__(self):
        if self.side < 1:
            raise ValueError(f"side must be at least 1, not {self.side}")

    def __call__(self, x: VisualTokens) -> list[Reduced]:
        grid = int(x.patches.shape[1] ** 0.5)
        first = (grid - self.side) // 2
        rows = torch.arange(first, first + self.side)
        kept = (rows[:, None] * grid + rows).flatten()
        return [Reduced(patches[kept], kept) for patches in x.patches]
'''
# Runs the command and scrapes its metrics meanwhile. It keeps the last value of each series, as Prometheus
# does, because Ray drops a gauge that was not set for some report intervals. It ends when every stage has
# counted all units, no unit is under way, and no value has changed for two seconds.
CODE = """
import contextlib, http.client, sys, threading, time, urllib.request
from jobs.common.entry import run_command
from pipeline.run.cluster.start import keeping_ray

port, units, *overrides = sys.argv[1:]
series, changed = {}, time.monotonic()

def scrape():
    global changed
    with contextlib.suppress(OSError, http.client.HTTPException):
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
            for line in answer.read().decode().splitlines():
                if line.startswith("ray_trimline_"):
                    name, value = line.rsplit(" ", 1)
                    if series.get(name) != value:
                        series[name], changed = value, time.monotonic()

def watch():
    while True:
        scrape()
        time.sleep(0.3)

def all_equal(name, count, value):
    values = [float(text) for key, text in list(series.items()) if key.startswith(f"ray_trimline_{name}{{")]
    return len(values) == count and set(values) == {value}

def complete():
    counted = all_equal("units_total", 1, int(units)) and all_equal("stage_seconds_count", 5, int(units))
    return counted and all_equal("units_in_stage", 5, 0) and time.monotonic() - changed > 2

threading.Thread(target=watch, daemon=True).start()
with keeping_ray():  # else its page goes with it, before the last values are there
    status = run_command("annotate", overrides)
    until = time.monotonic() + 120
    while time.monotonic() < until and not complete():
        time.sleep(0.2)
for name, value in list(series.items()):
    print(name, value)
sys.exit(status)
"""


@dataclass(frozen=True)
class Rich:
    """The finished process of the run, its output folder and its summary."""

    ended: subprocess.CompletedProcess
    output: Path
    summary: dict[str, Any]


def own_reducer(folder: Path) -> tuple[Path, Path]:
    """Write a user's own reducer, `reducer=middle`; returns its code folder and configuration folder."""
    code, conf = folder / "code", folder / "conf"
    (conf / "reducer").mkdir(parents=True)
    code.mkdir()
    (code / "middle.py").write_text(MIDDLE)
    (conf / "reducer" / "middle.yaml").write_text("_target_: middle.Middle\nside: 4\n")
    return code, conf


def make(folder: Path) -> Rich:
    """Run the command with metrics and a JSON log; returns what it printed and wrote."""
    code, conf = own_reducer(folder)
    write_tar(folder / "a.tar", SAMPLES, questions=2)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-c", CODE, str(port), str(UNITS), "--config-dir", str(conf)]
    command += [f"metrics_port={port}", "log=json", "reducer=middle", "reducer.side=3", "model=random"]
    command += ["source=webdataset", "source.path=a.tar", "task=vqa", "unit_samples=2", "output=out"]
    command += ["decoding.max_new_tokens=2", "cluster.encode.threads=1", "cluster.generate.threads=1"]
    python_path = os.pathsep.join([str(code), *filter(None, [os.environ.get("PYTHONPATH")])])
    ended = run(command, folder, RAY_metrics_report_interval_ms="500", PYTHONPATH=python_path)
    assert ended.returncode == 0, ended.stderr
    return Rich(ended, folder / "out", json.loads((folder / "out" / "summary.json").read_text()))
