"""`trimline compare`: real runs of several arms, from the command line to the report."""

import contextlib
import io
import json

import pyarrow.parquet as pq
import pytest

from jobs.common.arms import arm_specs
from jobs.common.entry import run_command
from pipeline.demo.scenes import write_shards
from pipeline.storage.uris import Storage
from pipeline.support.errors import ConfigError
from tests.support.commands import trimline
from tests.support.runs import without_ray

SMALL = ["model=random", "device=cpu", "decoding.max_new_tokens=4", "unit_samples=2"]
SMALL += [
    "cluster.encode.threads=1",
    "cluster.generate.threads=1",
    "compare.resamples=50",
    "compare.gallery=4",
]
SHARED_RUN = "full: {}, trim: {}, chance: {reducer: random, budget_of: trim}"
ARMS = f"arms={{{SHARED_RUN}, control: {{}}}}"


def compare(*overrides):
    """Run `trimline compare` in this process; return its exit status and its printed text."""
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        status = run_command("compare", overrides)
    return status, printed.getvalue()


@pytest.fixture(scope="module")
def compared(ray, tmp_path_factory):
    """Run a comparison of three arms, delete one file, and run it with a fourth arm, without Ray."""
    folder, scenes = tmp_path_factory.mktemp("compare"), tmp_path_factory.mktemp("scenes")
    writing = {"samples": 3, "samples_per_shard": 3, "split": "val", "seed": 0, "storage": Storage()}
    list(write_shards(str(scenes), **writing))
    command = [ARMS, *SMALL, "dataset=scenes", f"dataset.root={scenes}", f"output={folder}"]
    status, _ = compare(f"arms={{{SHARED_RUN}}}", *command[1:])
    assert status == 0
    lost = sorted((folder / "chance" / "data").iterdir())[0]
    lost.unlink()
    times = {path: path.stat().st_mtime_ns for path in folder.glob("*/data/*.parquet")}
    with without_ray():
        status, printed = compare(*command)
    assert status == 0
    assert lost.exists()
    assert {path: path.stat().st_mtime_ns for path in times} == times, "no other file was made again"
    return folder, command, printed


@pytest.mark.slow
def test_every_arm_has_its_own_output(compared):
    folder, _, _ = compared
    for arm in ("full", "trim", "chance", "control"):
        assert (folder / arm / "_SUCCESS").exists()
        run = json.loads((folder / arm / "run.json").read_text())
        assert ("budget_of.reducer._target_" in run["counted"]) == (arm == "chance")
    run = json.loads((folder / "control" / "run.json").read_text())
    assert run["counted"]["engine.max_batch"] == 32, "the control answers in other batches"
    assert run["configuration"]["engine"]["max_batch"] == 64


@pytest.mark.slow
def test_figures_and_rows_are_those_of_the_arms(compared):
    folder, _, printed = compared
    comparison = json.loads((folder / "comparison.json").read_text())
    joined = pq.read_table(folder / "comparison.parquet").to_pylist()
    assert comparison["requests"] == len(joined) > 20
    assert comparison["baseline"] == "full"
    assert comparison["arms"]["full"]["tokens"]["visual_tokens_kept"]["mean"]["value"] == 576
    kept = [(row["visual_tokens_kept.trim"], row["visual_tokens_kept.chance"]) for row in joined]
    assert all(trim == chance for trim, chance in kept)
    assert comparison["pairs"]["control"]["exact_agreement"]["value"] >= 0.9
    assert comparison["pairs"]["trim"]["score_difference"] is not None
    for arm in ("full", "trim", "chance", "control"):
        assert arm in printed
    assert (folder / "report.html").stat().st_size < 10e6


@pytest.mark.slow
def test_a_finished_comparison_reads_nothing_again(compared):
    _, command, _ = compared
    result = trimline("compare", *command, "cluster.address=nowhere:1")  # Ray would not start
    assert result.returncode == 0, result.stderr
    for arm in ("full", "trim", "chance", "control"):
        assert f"{arm}: nothing to do: every shard was finished before" in result.stdout


def test_arms_as_a_list_as_a_mapping_and_as_a_grid():
    assert [spec.reducer for spec in arm_specs(["full", "trim"])] == ["full", "trim"]
    (control,) = arm_specs(["control"])
    assert (control.reducer, control.other_batches) == ("full", True)
    (halved,) = arm_specs({"control": {"engine": {"max_batch": 8}}})
    assert (halved.other_batches, halved.parts, halved.fields) == (True, {"engine": {"max_batch": 8}}, {})
    grid = arm_specs({"cover": {"reducer": "trim_cover", "diversity": [0.1, 0.3], "sign": 1}})
    assert [spec.name for spec in grid] == ["cover-diversity=0.1", "cover-diversity=0.3"]
    assert grid[1].fields == {"diversity": 0.3, "sign": 1}
    (spec,) = arm_specs({"small": {"reducer": "trim", "engine": {"max_batch": 2}, "model": "random"}})
    assert spec.parts == {"engine": {"max_batch": 2}, "model": "random"}
    assert spec.fields == {}


@pytest.mark.parametrize(
    ("arms", "message"),
    [
        ([], "neither a list of reducers nor a mapping"),
        ("trim", "neither a list of reducers nor a mapping"),
        (["trim", "trim"], "'trim' stands twice"),
        (["../trim"], "cannot name a folder"),
        ({"a": 3}, "arms.a: 3 is no mapping"),
        ({"trim": {"clip_text": "bare"}}, "arms.trim.clip_text: 'bare' is no mapping of fields$"),
        ({"trim": {"clip_text": None}}, "arms.trim.clip_text: None is no mapping of fields$"),
        ({"trim": {"engine": 3}}, "arms.trim.engine: 3 is no mapping of fields or an option of engine"),
    ],
)
def test_arms_that_are_wrong(arms, message):
    with pytest.raises(ConfigError, match=message):
        arm_specs(arms)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["arms=[full]"], "arms: 'full' alone has nothing to be compared with"),
        (["arms=[full,nope]"], "arms: nope: there is no reducer 'nope'; there is: cdpruner"),
        (["arms={full: {}, t: {reducer: trim, colour: 3}}"], "arms: t: reducer: "),
        (["arms={full: {}, t: {reducer: trim, budget_of: x}}"], "arms.t.budget_of: 'x' is none of"),
        (["arms={full: {}, t: {reducer: trim, keep_ratio: 7}}"], "arms: t: reducer: keep_ratio"),
        (
            ["arms={full: {}, trim: {clip_text: {text: bear}}}"],
            "arms: trim: clip_text.text: 'bear' is none of ('question', 'bare', 'prompt', 'words')",
        ),
        (["arms={full: {}, trim: {clip_text: {txt: bare}}}"], "arms: trim: clip_text: Key 'txt' is not in"),
        (
            ["arms={trim: {}, divprune: {clip_text: {text: bare}}}"],
            "arms: divprune: clip_text: reducer DivPrune reads no text",
        ),
        (["arms=[full,trim]", "compare.baseline=trimm"], "compare.baseline: 'trimm' is none of the arms"),
        (["arms=[full,trim]", "compare.resamples=-1"], "compare.resamples must not be negative"),
    ],
)
def test_a_wrong_comparison_is_refused_before_ray_starts(folder, capfd, overrides, message):
    assert run_command("compare", [*overrides, "model=random"]) == 2
    printed = capfd.readouterr().err
    assert message in printed
    assert printed.count("\n") == 1, printed
