"""Test what becomes of units when a GPU is at fault: real Ray, made-up GPUs, real deaths."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.pipeline.run.guard.sick_gpus import BREAKING, POISON, SAMPLES, UNITS

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
ALL = {f"{number}-{at}" for number in range(UNITS) for at in range(SAMPLES)}


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Run every case once, in one Ray, and return what became of each."""
    folder = tmp_path_factory.mktemp("gpus")
    command = [sys.executable, "-m", "tests.pipeline.run.guard.sick_gpus", str(folder)]
    done = subprocess.run(
        command, cwd=Path(__file__).parents[4], capture_output=True, text=True, timeout=550, check=False
    )
    assert done.returncode == 0, done.stderr
    cases: dict[str, Any] = json.loads((folder / "told.json").read_text())
    return cases


def incidents(case: dict[str, Any]) -> dict[tuple[str, str], int]:
    """Count the incidents of a case by event and GPU."""
    return {(one["event"], ",".join(one["gpus"])): one["times"] for one in case["incidents"]}


@pytest.mark.parametrize("name", ["kills each unit", "dies at each load"])
def test_a_gpu_that_kills_its_processes_is_given_up_and_no_row_fails(told, name):
    case = told[name]
    assert case["error"] is None
    assert case["rows"] == {key: ["ok", key] for key in ALL}
    assert incidents(case)["retired", "1"] == 1
    (line,) = [one["line"] for one in case["incidents"] if one["event"] == "retired"]
    assert line.startswith("stage generate: GPU 1 of node ")


def test_a_sample_that_kills_everywhere_fails_alone_on_a_gpu(told):
    """Another one breaks its process for all that comes after. Neither is tried beside a second model."""
    case = told["samples"]
    assert case["error"] is None
    failed = {key: error for key, (status, error) in case["rows"].items() if status != "ok"}
    assert failed == {
        "{}-{}".format(*POISON): "the worker of stage generate died of SIGKILL on this sample alone",
        "{}-{}".format(*BREAKING): "stage generate raised KeyError: 'not in my table'",
    }
    assert set(case["rows"]) == ALL
    assert {event for event, _ in incidents(case)} == {"died"}, "no GPU is given up"


def test_one_error_of_a_device_and_one_failed_start_cost_a_restart_each(told):
    case = told["once"]
    assert case["error"] is None
    assert case["rows"] == {key: ["ok", key] for key in ALL}
    assert incidents(case) == {("not loaded", "1"): 2, ("lost", "1"): 1}
    assert case["loads"]["loads-1"] == 4


def test_without_a_gpu_that_works_the_run_ends_in_a_line_that_names_one(told):
    case = told["no gpu works"]
    assert case["rows"] == {}, "no innocent row has failed"
    assert case["error"].startswith("stage generate: GPU ")
    assert " of node " in case["error"] and "CUDA error: uncorrectable ECC error" in case["error"]
    assert "no other GPU became free" in case["error"]
    assert incidents(case)["retired", "0"] == incidents(case)["retired", "1"] == 1
