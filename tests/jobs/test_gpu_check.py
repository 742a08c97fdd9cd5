"""`trimline benchmark gpu_check`: it runs through on a pretended GPU, and tells what broke.

The commands are processes, and so are their parts; each pretends from its start that it has a GPU.
"""

import json
import os
import subprocess
import sys
import tempfile
from importlib import import_module
from pathlib import Path

import pytest

from jobs.common.entry import run_command
from pipeline.benchmark.gauges import machine
from pipeline.benchmark.gpu_check.check import check
from pipeline.benchmark.gpu_check.page import check_page
from pipeline.benchmark.gpu_check.parts import PARTS
from pipeline.benchmark.gpu_check.results import Claim, Measured, Result
from pipeline.benchmark.gpu_check.run_part import run_part
from pipeline.benchmark.options import GpuCheckOptions
from pipeline.support.table import Table
from tests.support.commands import compose
from tests.support.pretended_cuda import pretended_cuda

ROOT = Path(__file__).parents[2]
SETUP = "from tests.support.pretended_profiler import install; install()"
# ends the process when it opens the first file in a temporary folder of ours
DIES = """
import os, sys
def die(event, args):
    if event == "open" and f"{os.environ['TMPDIR']}/trimline-" in str(args[0]):
        os.kill(os.getpid(), 9)
sys.addaudithook(die)
"""
SMALL = {"geometry": "random", "check_images": 2, "check_tokens": 2}


def gpu_check(folder: Path, *overrides: str) -> tuple[int, dict, str]:
    """Run the command on a pretended GPU; returns its exit status, the JSON and what it printed."""
    (folder / "site").mkdir()
    (folder / "site" / "sitecustomize.py").write_text(SETUP)
    small = [f"benchmark.{key}={value}" for key, value in SMALL.items()]
    path = os.pathsep.join([str(folder / "site"), str(ROOT)])
    done = subprocess.run(
        [sys.executable, "-m", "jobs", "benchmark", "gpu_check", *small, *overrides],
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
    status, figures, printed = gpu_check(tmp_path, "benchmark.parts=[same_answers,waits,halved,speed]")
    parts = figures["parts"]
    states = {name: part["state"] for name, part in parts.items()}
    assert not {"broke", "stopped"} & set(states.values()), printed
    proven = {name: state for name, state in states.items() if name != "speed"}
    assert proven == {"same_answers": "passed", "waits": "passed", "halved": "passed"}
    assert status == int("failed" in states.values())
    (answers,) = parts["same_answers"]["measured"]["tables"]
    assert len(answers["rows"]) == 9 and all(row[1:6] == [4, 4, 4, 4, 0] for row in answers["rows"])
    waits = parts["waits"]["measured"]
    assert all(row[1] > 0 for row in waits["tables"][0]["rows"]), "the profiler sees waits"
    speed = parts["speed"]["measured"]["figures"]["end_to_end"]
    assert list(speed["arms"]) == ["loop, batch 8", "full", "trim"]
    assert speed["arms"]["full"]["peak_mib"] > speed["arms"]["trim"]["peak_mib"] > 0
    page = (tmp_path / "gpu-check.html").read_text()
    assert "NVIDIA H100" in page and page.count("<table") == 4
    assert "http" not in page.replace("http-equiv", ""), "it needs no other file"


@pytest.mark.slow
def test_a_part_that_breaks_or_takes_too_long_is_told_and_the_others_go_on(folder, capfd):
    config, options = (
        compose("device=cuda", "source.path=pictures", "output=out"),
        GpuCheckOptions(**SMALL),
    )
    with pretended_cuda():  # of this process alone: the parts find no GPU
        assert check(config, options, ["waits", "weights", "speed_vllm"], "found.json") == 1
    figures = json.loads((folder / "found.json").read_text())
    broken, weights, vllm = figures["parts"].values()
    assert not figures["passed"]
    assert (broken["state"], weights["state"], vllm["state"]) == ("broke", "passed", "left out")
    assert "CUDA" in broken["error"] and "Traceback" in broken["traceback"]
    assert f"waits: broke after {broken['seconds']:.0f} s: {broken['error']}" in capfd.readouterr().out
    assert "waits broke" in (folder / "found.html").read_text()

    late = run_part("weights", config, options, seconds=0.2)
    assert (late.state, late.error) == ("stopped", "not done after 0 s")


def test_the_page_shows_every_part_and_no_markup_of_an_error():
    measured = Measured(
        (Claim("it holds", True), Claim("it does not", False)),
        (Table("rows", ("", "n"), [("a", 1.5)], ("a note",)),),
    )
    results = [
        Result("waits", "failed", 3.0, measured),
        Result("speed", "broke", 1.0, error="<script>alert(1)</script>", traceback="<b>"),
        Result("speed_vllm", "left out", error="vllm not installed here"),
    ]
    page = check_page(machine(None), "7b", results)
    assert "<script" not in page and "<b>" not in page
    for text in ("does not hold", "it does not", "1.50", "a note", "vllm not installed here", "speed broke"):
        assert text in page


@pytest.mark.slow
def test_a_part_that_dies_leaves_no_temporary_files(folder, monkeypatch):
    (folder / "site").mkdir()
    (folder / "tmp").mkdir()
    (folder / "site" / "sitecustomize.py").write_text(DIES)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(folder / "site"), str(ROOT)]))
    monkeypatch.setenv("TMPDIR", str(folder / "tmp"))
    monkeypatch.setattr(tempfile, "tempdir", None)
    config = compose("device=cuda", "source.path=pictures", "output=out")
    result = run_part("halved", config, GpuCheckOptions(**SMALL), seconds=300)
    assert (result.state, result.error) == ("broke", "its process died (SIGKILL)")
    assert not list((folder / "tmp").iterdir())


def test_each_part_is_a_function_of_its_module():
    for part in PARTS.values():
        module, _, function = part.function.partition(".")
        assert callable(getattr(import_module(f"pipeline.benchmark.gpu_check.{module}"), function))
