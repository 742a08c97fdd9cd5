"""Test on GPUs that Ray is merely told of: each has a language model, and CLIPs lie on different ones."""

import json
import subprocess
import sys

import pytest


def placed(nodes, gpus, *how):
    shown = subprocess.run(
        [sys.executable, "-m", "tests.support.made_up_gpus", str(nodes), str(gpus), *how],
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert shown.returncode == 0, shown.stderr[-3000:]
    return json.loads(next(line for line in shown.stdout.splitlines() if line.startswith('{"gpus"')))


@pytest.mark.slow
@pytest.mark.parametrize(("nodes", "gpus", "how"), [(1, 5, ["run"]), (4, 8, []), (1, 20, [])])
def test_every_gpu_has_a_language_model_and_no_two_clips_share_one(nodes, gpus, how):
    clips = -(-nodes * gpus // 4)
    table = placed(nodes, gpus, *how)
    assert table.pop("gpus_by_clips_if_models_may_grow", {"1": clips}) == {"1": clips}
    by_clips = table.pop("nodes_by_clips")  # Ray spreads them as well as it can: each node has one at least
    assert sum(by_clips.values()) == nodes
    assert table == {
        "gpus": nodes * gpus,
        "gpus_by_language_models": {"1": nodes * gpus},
        "gpus_by_clips": {"1": clips},
        "idle": 0,
    }


@pytest.mark.slow
def test_a_run_beside_a_gpu_that_kills_its_processes_answers_every_row():
    told = placed(1, 2, "sick")
    assert told["deaths"] >= 2
    assert (told["units"], list(told["rows"])) == (20, ["ok"])
    assert any("GPU 1 of node " in line for line in told["lines"]), told["lines"]
