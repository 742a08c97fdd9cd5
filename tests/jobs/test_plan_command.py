"""`trimline benchmark plan` on a real small output: real times, real counts."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from jobs.common.entry import run_command
from pipeline.run.in_process import run_in_process
from tests.support.commands import compose
from tests.support.tars import write_tar

UNITS, REQUESTS = 6, 24


@pytest.fixture(scope="module")
def profile(tmp_path_factory) -> Path:
    """Twelve pictures with two questions each, in two tars, answered one unit after the other."""
    folder = tmp_path_factory.mktemp("plan")
    for number in range(2):
        write_tar(folder / "in" / f"{number}.tar", 6, questions=1, seed=number)
    run_in_process(
        compose(
            *("source=webdataset", f"source.path={folder}/in", f"output={folder}/out", "task=caption_vqa"),
            *("model=random", "device=cpu", "unit_samples=2", "decoding.max_new_tokens=2"),
        ),
        attempt=f"{time.time():.3f}",
    )
    return folder / "out"


def plan(capfd, *overrides: str) -> tuple[int, str, str]:
    capfd.readouterr()
    status = run_command("plan", list(overrides))
    printed = capfd.readouterr()
    return status, printed.out, printed.err


@pytest.mark.slow
def test_a_job_is_planned_from_a_real_output(profile, tmp_path, capfd):
    price = ["pricing=custom", "pricing.hardware='two cores'", "pricing.price_per_hour=3"]
    file = tmp_path / "plan.json"
    status, out, err = plan(
        capfd, "requests=1e6", f"profile={profile}", "workers=[1,8,100000]", f"json={file}", *price
    )
    assert (status, err) == (0, "")
    forecast = json.loads(file.read_text())
    assert forecast["profile"]["units"] == UNITS and forecast["profile"]["requests"] == REQUESTS
    single, eight, many = forecast["workers"]
    # one after the other in one process: no slower than the stages' seconds say
    assert single["hours"]["value"] * 3600 == pytest.approx(1e6 / single["requests_per_s"])
    faster = single["hours"]["value"] / eight["hours"]["value"]
    assert 7 < faster < 9 or (1 < faster <= 7 and eight["bound"] == "driver")  # the units are tiny
    assert many["bound"] == "driver" or many["bound"] == "start-up"
    for workers in forecast["workers"]:
        assert workers["hours"]["low"] <= workers["hours"]["value"] <= workers["hours"]["high"]
        assert workers["money"] == pytest.approx(3 * workers["hours"]["value"] * workers["workers"])
    assert "1,000,000 requests" in out and "bound by" in out and "USD" in out
    assert f"{forecast['traffic']['units']:,.0f}" in out


def test_planned_bytes_and_files_match_the_profiled_output(profile, tmp_path, capfd):
    """A plan for the profile's own number of requests has the profile's own bytes and files."""
    file = tmp_path / "plan.json"
    status, out, _ = plan(capfd, f"requests={REQUESTS}", f"profile={profile}", "workers=[1]", f"json={file}")
    assert status == 0 and "pricing=custom" in out
    traffic = json.loads(file.read_text())["traffic"]
    files = list((profile / "data").iterdir())
    tars = list((profile.parent / "in").iterdir())
    assert traffic["units"] == len(files) == UNITS
    assert traffic["output_puts"] == UNITS + 2 * len(tars), "with the sums of each shard"
    assert traffic["output_bytes"] == sum(file.stat().st_size for file in files)
    assert traffic["source_bytes"] == sum(tar.stat().st_size for tar in tars)
    assert traffic["source_gets"] == 3 * len(tars)
    assert traffic["moved_bytes"]["decode"] == 12 * 3 * 336**2


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ([], "requests must be given"),
        (["requests=0"], "requests: 0"),
        (["requests=1.5"], "requests: 1.5 is no whole number"),
        (["requests=inf"], "requests: inf"),
        (["requests=many"], "requests: "),
        (["requests=1e9", "workers=[]"], "workers must not be empty"),
        (["requests=1e9", "workers=[0]"], "workers must be at least 1 each"),
        (["requests=1e9", "driver_unit_s=-1"], "driver_unit_s must not be negative"),
        (["requests=1e9", "gpus=[8,0]"], "gpus must be at least 1 each"),
        (["requests=1e9", "layout=zips"], "layout: 'zips' is none of tars, files, inventory"),
        (["requests=1e9", "slices=0"], "slices must be at least 1"),
        (["requests=1e9", "gpu_requests_per_s=0"], "gpu_requests_per_s must be above 0"),
        (["requests=1e9", "put_price=-1"], "put_price must not be negative"),
        (["requests=1e9", "profile=nowhere"], "nowhere is no output of Trimline"),
        (["requests=1e9", "colour=red"], "colour"),
        (["requests=1e9", "pricing=custom"], "pricing.hardware must be given"),
        (["requests=1e9", "json=nowhere.txt/x/y.json"], "json: "),
    ],
)
def test_wrong_options_are_refused_in_one_line(tmp_path, monkeypatch, capfd, overrides, message):
    monkeypatch.chdir(tmp_path)
    Path("nowhere.txt").touch()
    status, out, err = plan(capfd, *overrides)
    assert (status, out) == (2, "")
    assert err.startswith("trimline plan: ") and message in err
    assert err.count("\n") == 1 and err.endswith("\n"), err


def changed(profile: Path, folder: Path, change) -> Path:
    """Copy the profile and change the footer of each file."""
    import shutil

    import pyarrow.parquet as pq

    shutil.copytree(profile, folder)
    for file in (folder / "data").iterdir():
        table = pq.read_table(file)
        footer = json.loads(table.schema.metadata[b"trimline"])
        change(footer)
        pq.write_table(table.replace_schema_metadata({b"trimline": json.dumps(footer)}), file)
    return folder


def test_a_node_of_eight_gpus_is_planned_as_eight(profile, tmp_path, capfd):
    """Of 8 language models and the 2 CLIPs beside them; their shares of a GPU add up to less."""

    def on_gpus(footer):
        for stage in ("encode", "generate"):
            footer["stages"][stage]["peak_gpu_memory_bytes"] = 1 << 30

    folder = changed(profile, tmp_path / "gpus", on_gpus)
    manifest = json.loads((folder / "run.json").read_text())
    for stage, actors in (("encode", 2), ("generate", 8)):
        manifest["configuration"]["cluster"][stage]["num_actors"] = actors
    (folder / "run.json").write_text(json.dumps(manifest))
    file = tmp_path / "plan.json"
    status, out, err = plan(
        capfd, "requests=1e6", f"profile={folder}", "workers=[1,64]", f"json={file}", "resamples=2"
    )
    assert (status, err) == (0, "")
    assert "and 8 GPUs, as in the profile" in out and "all GPUs" in out
    by_workers = out.partition("whatever the number of workers")[0].splitlines()
    assert [line.split()[:2] for line in by_workers if line.startswith(("1 ", "64 "))] == [
        ["1", "8"],
        ["64", "512"],
    ]
    forecast = json.loads(file.read_text())
    assert forecast["profile"]["gpus"] == 8
    assert forecast["profile"]["stations"]["generate"]["gpus"] == 1
    assert 0 < forecast["profile"]["stations"]["encode"]["gpus"] <= 1
    whole = forecast["whole_job"]
    assert whole["gpu"]["from_profile"] and whole["gpu"]["actors"] == 10 / 8
    assert {fleet["gpus"] for fleet in whole["fleets"]} == {8, 64, 512}


def test_an_output_of_an_older_version_is_refused(profile, tmp_path, capfd):
    def older(footer):
        for visit in footer["stages"].values():
            del visit["cpu_s"]

    folder = changed(profile, tmp_path / "older", older)
    status, _, err = plan(capfd, "requests=1e9", f"profile={folder}")
    assert status == 2 and "its files lack 'cpu_s'; make a new one" in err


def test_too_few_units_are_refused(profile, tmp_path, capfd):
    import shutil

    shutil.copytree(profile, tmp_path / "few")
    for file in sorted((tmp_path / "few" / "data").iterdir())[2:]:
        file.unlink()
    status, _, err = plan(capfd, "requests=1e9", f"profile={tmp_path}/few")
    assert status == 2 and "has 2 units of one start, fewer than 4" in err


def test_an_arm_of_a_comparison_is_refused(profile, tmp_path, capfd):
    import shutil

    shutil.copytree(profile, tmp_path / "arm")
    manifest = json.loads((profile / "run.json").read_text())
    manifest["configuration"]["arms"] = ["full", "trim"]
    (tmp_path / "arm" / "run.json").write_text(json.dumps(manifest))
    status, _, err = plan(capfd, "requests=1e9", f"profile={tmp_path}/arm")
    assert status == 2 and "is an arm of a comparison" in err


def test_benchmark_plan_runs_the_plan_command(tmp_path):
    """`trimline benchmark plan --help` imports neither torch nor Ray."""
    result = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "jobs.main", "benchmark", "plan", "--help"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "trimline benchmark plan requests=1e9" in result.stdout and "workers:" in result.stdout
    imported = {line.rpartition("|")[2].strip() for line in result.stderr.splitlines()}
    assert "hydra" in imported and not imported & {"torch", "ray", "pyarrow", "transformers"}


def test_the_whole_job_is_planned_for_many_gpus(profile, tmp_path, capfd):
    """No GPU was measured, so that the rate of one is assumed, and the tables say so."""
    file = tmp_path / "plan.json"
    status, out, err = plan(
        *(capfd, "requests=1e9", f"profile={profile}", "workers=[1]", "resamples=1", f"json={file}"),
        *("layout=files", "image_requests=2", "requests_per_unit=64"),
        *("gpu_hour_price=2", "put_price=0.005"),
    )
    assert (status, err) == (0, "")
    whole = json.loads(file.read_text())["whole_job"]
    assert whole["gpu"]["requests_per_s"] == 100 and not whole["gpu"]["from_profile"]
    assert "given, or assumed (no profile has measured it)" in out and "estimate" in out
    assert whole["workload"]["listed"] == 5e8 and whole["workload"]["units"] == 122_071 * 128
    by_fleet = {(fleet["gpus"], fleet["slices"]): fleet for fleet in whole["fleets"]}
    assert {gpus for gpus, _ in by_fleet} == {8, 64, 512}
    alone = by_fleet[512, 1]
    sliced = next(fleet for (gpus, slices), fleet in by_fleet.items() if gpus == 512 and slices > 1)
    assert alone["bound"] == "driver" and "512 GPUs in 1 slice: a driver is busy for" in out
    assert f"slice=i/{sliced['slices']}" in out and sliced["driver_busy"] <= 0.5
    assert sliced["hours"] < alone["hours"] / 2 and sliced["gpu_hours"] < alone["gpu_hours"] / 2
    for fleet in whole["fleets"]:
        assert fleet["hours"] == pytest.approx(sum(fleet["span_hours"].values()))
        assert fleet["share"] == pytest.approx(max(fleet["busy_hours"].values()) / fleet["hours"])
        puts = fleet["store_requests"]["puts"]
        assert fleet["money"] == pytest.approx(2 * fleet["gpu_hours"] + 0.005 * puts / 1000)
    assert "not charged: GETs, LISTs" in out


def test_the_whole_job_changes_no_other_figure(profile, tmp_path, capfd):
    files = [tmp_path / "with.json", tmp_path / "without.json"]
    keys = ("requests=1e6", f"profile={profile}", "workers=[1,8]", "resamples=1")
    tables = [plan(capfd, *keys, f"json={files[0]}")[1], plan(capfd, *keys, f"json={files[1]}", "gpus=[]")[1]]
    figures = [json.loads(file.read_text()) for file in files]
    assert "whole_job" in figures[0] and "whole_job" not in figures[1]
    del figures[0]["whole_job"]
    assert figures[0] == figures[1] and tables[0].startswith(tables[1].rstrip())


@pytest.mark.parametrize(
    ("keys", "layout", "listed", "shards", "gets"),
    [
        ((), "tars", 2000, 2000, 3 * 2000),  # six pictures a tar, as in the profile
        (("layout=files",), "files", 12_000, 3, 12_000),
        (("layout=inventory", "shard_requests=2400"), "inventory", 12_000, 10, 12_000),
        (("shard_requests=2400",), "tars", 10, 10, 3 * 10),  # 1,200 small pictures are one range
        (("layout=files", "image_requests=8"), "files", 3000, 1, 3000),
    ],
)
def test_the_source_has_the_form_that_is_given(profile, tmp_path, capfd, keys, layout, listed, shards, gets):
    file = tmp_path / "plan.json"
    plan(
        *(capfd, "requests=24000", f"profile={profile}", "workers=[1]", "resamples=1", f"json={file}"),
        *("gpus=[8]", *keys),
    )
    work = json.loads(file.read_text())["whole_job"]["workload"]
    assert [work[name] for name in ("layout", "listed", "shards")] == [layout, listed, shards]
    assert work["source_gets"] == gets and work["units"] == UNITS * 1000
