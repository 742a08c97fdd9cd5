"""`trimline benchmark gpu_check`: it runs through on a pretended GPU, and tells what broke.

The commands are processes, and so are their parts; each pretends from its start that it has a GPU.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from jobs.common.entry import run_command
from pipeline.benchmark.gauges import machine
from pipeline.benchmark.gpu_check.page import to_html
from pipeline.benchmark.gpu_check.parts import PARTS
from pipeline.benchmark.gpu_check.results import (
    Claim,
    Measured,
    Result,
    Sheet,
    pack_measured,
    unpack_measured,
)
from pipeline.benchmark.options import GPU_CHECK_PARTS

ROOT = Path(__file__).parents[2]
SETUP = "from tests.support.pretended_profiler import install; install(memory_bytes={bytes})"
SMALL = ["benchmark.geometry=random", "benchmark.check_images=2", "benchmark.check_tokens=2"]


def check(folder: Path, *overrides: str, memory: int = 80 << 30) -> tuple[int, dict, str]:
    """Run the command on a pretended GPU; returns its exit status, the JSON and what it printed."""
    (folder / "site").mkdir()
    (folder / "site" / "sitecustomize.py").write_text(SETUP.format(bytes=memory))
    path = os.pathsep.join([str(folder / "site"), str(ROOT)])
    done = subprocess.run(
        [sys.executable, "-m", "jobs", "benchmark", "gpu_check", *SMALL, *overrides],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    return done.returncode, json.loads((folder / "gpu-check.json").read_text()), done.stdout + done.stderr


def test_without_a_gpu_it_is_refused_in_one_line(folder, capfd):
    for override, reason in (("device=auto", "sees no GPU"), ("device=cpu", "device=cpu, but a GPU")):
        assert run_command("benchmark", ["benchmark.name=gpu_check", override]) == 2
        printed = capfd.readouterr()
        assert (printed.out, printed.err.count("\n")) == ("", 1)
        assert reason in printed.err
    assert not list(folder.glob("gpu-check*"))


@pytest.mark.slow
def test_it_runs_through(tmp_path):
    status, figures, printed = check(tmp_path, "benchmark.parts=[same_answers,waits,halved,weights,speed]")
    parts = figures["parts"]
    states = {name: part["state"] for name, part in parts.items()}
    assert not {"broke", "stopped"} & set(states.values()), printed
    assert states["same_answers"] == "passed"
    assert status == int("failed" in states.values())
    (answers,) = parts["same_answers"]["measured"]["sheets"]
    assert len(answers["rows"]) == 9 and all(row[1] == row[2] == row[3] == 4 for row in answers["rows"])
    waits = parts["waits"]["measured"]
    assert all(row[1] > 0 for row in waits["sheets"][0]["rows"]), "the profiler sees waits"
    assert parts["halved"]["measured"]["claims"][1]["holds"]
    speed = parts["speed"]["measured"]["figures"]["end_to_end"]
    assert list(speed["arms"]) == ["loop, batch 8", "full", "trim"]
    assert speed["arms"]["full"]["peak_mib"] > speed["arms"]["trim"]["peak_mib"] > 0
    page = (tmp_path / "gpu-check.html").read_text()
    assert "NVIDIA H100" in page and page.count("<table") == 5
    assert "http" not in page.replace("http-equiv", ""), "it needs no other file"


def test_parts_that_break_or_take_too_long_are_told_and_the_others_go_on(tmp_path):
    over, broken = tmp_path / "over", tmp_path / "broken"
    over.mkdir()
    status, figures, _ = check(over, "benchmark.parts=[waits,weights,speed_vllm]", "benchmark.check_s=0.5")
    assert status == 1 and not figures["passed"]
    parts = figures["parts"]
    assert (parts["waits"]["state"], parts["weights"]["state"]) == ("stopped", "stopped")
    assert parts["waits"]["error"] == "not done after 1 s"
    assert parts["speed_vllm"]["state"] in ("left out", "stopped")
    broken.mkdir()
    status, figures, printed = check(broken, "benchmark.parts=[halved,weights]", memory=1 << 20)
    assert status == 1
    assert figures["parts"]["halved"]["state"] == "broke"
    assert "halved: broke after" in printed and "OutOfMemoryError: CUDA out of memory" in printed
    assert "Traceback" in figures["parts"]["halved"]["traceback"]
    assert figures["parts"]["weights"]["state"] == "passed"


def test_the_page_shows_every_part_and_no_markup_of_an_error():
    measured = Measured(
        (Claim("it holds", True), Claim("it does not", False)), (Sheet("rows", ("", "n"), (("a", 1.5),)),)
    )
    results = [
        Result("waits", "failed", 3.0, unpack_measured(pack_measured(measured))),
        Result("speed", "broke", 1.0, error="<script>alert(1)</script>", traceback="<b>"),
        Result("speed_vllm", "left out", error="vLLM is not installed here"),
    ]
    assert results[0].measured == measured
    page = to_html(machine(None), "7b", results)
    assert "<script" not in page and "<b>" not in page
    for text in ("does not hold", "it does not", "1.50", "vLLM is not installed here", "speed broke"):
        assert text in page


def test_the_parts_are_those_that_can_be_chosen():
    assert tuple(PARTS) == GPU_CHECK_PARTS
