"""Test slices: they tile the plan, make the files of one run, and look at their own shards alone."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.benchmark.driver_memory import StubEncode, StubGenerate
from pipeline.output.plan import load_plan
from pipeline.output.plan_growth import make_plan
from pipeline.run.annotate import answer
from pipeline.run.config import RunOptions
from pipeline.run.prepare import prepare
from pipeline.run.slices import Slice, cut, parse_slice
from pipeline.sources.webdataset import WebDataset
from pipeline.storage.uris import Storage, canonical
from pipeline.support.errors import ConfigError, RunError
from pipeline.verify.verify import Verification, verify
from tests.support.runs import lasting, make_config, rows, unit_names, without_ray
from tests.support.s3 import BUCKET
from tests.support.stub_run import run_at_once, stub_run
from tests.support.tars import write_tar

HERE = Storage()


@pytest.mark.parametrize(
    "text", ["", "1", "4/4", "1/0", "0/0", "-1/4", "1/4/2", " 1/4", "1.0/4", "a/b", "1/-4"]
)
def test_what_is_no_slice_is_refused_in_one_line(text):
    with pytest.raises(ConfigError, match=r"^slice: .* is none: give i/n with 0 <= i < n; ") as refusal:
        RunOptions(output="out", slice=text)
    assert "\n" not in str(refusal.value)


def test_a_slice_is_read():
    assert RunOptions(output="out").own_slice is None
    assert RunOptions(output="out", slice="3/4").own_slice == parse_slice("3/4") == Slice(3, 4)
    assert str(Slice(3, 4)) == "3/4"


@given(
    st.lists(st.integers(0, 1 << 50), max_size=40) | st.lists(st.just(0), max_size=40),
    st.integers(1, 60),
)
def test_the_slices_tile_the_plan_and_have_about_the_same_bytes(sizes, count):
    ranges = [cut(sizes, number, count) for number in range(count)]
    assert [item for which in ranges for item in which] == list(range(len(sizes)))
    assert all(which.start <= which.stop for which in ranges)
    weights = sizes if any(sizes) else [1] * len(sizes)
    for which in ranges:
        assert abs(sum(weights[which.start : which.stop]) * count - sum(weights)) <= count * max(
            weights, default=0
        )


@pytest.fixture
def tars(tmp_path) -> WebDataset:
    """Write seven tars of different sizes."""
    for number, samples in enumerate((3, 1, 4, 2, 5, 1, 3)):
        write_tar(tmp_path / "tars" / f"{number}.tar", samples, seed=number, questions=2, width=24)
    return WebDataset(path=str(tmp_path / "tars"))


def run_of(checkpoint, source, output, which=None, storage=None, **options):
    config = make_config(checkpoint, source, output, storage=storage, unit_samples=2)
    return replace(config, options=replace(config.options, slice=which, **options))


def test_renewed_lines_do_not_move_the_cuts(tmp_path, tars):
    plan = make_plan(canonical(str(tmp_path / "out"), HERE), tars, None, HERE)
    before = [Slice(number, 3).shards_of(plan) for number in range(3)]
    plan.renew({6: replace(plan.line(6), size=1 << 40)}, HERE)
    renewed = load_plan(plan.folder, HERE)
    assert renewed.size(6) == 1 << 40
    assert [Slice(number, 3).shards_of(renewed) for number in range(3)] == before


@pytest.mark.slow
def test_four_slices_at_once_make_the_files_of_one_run(tmp_path, tars, random_checkpoint):
    """The first of them makes the plan; three more starts, one a slice twice, change nothing."""
    assert stub_run(run_of(random_checkpoint, tars, tmp_path / "one")).status == 0
    slices = ["0/4", "1/4", "2/4", "3/4", "1/4"]
    runs = [run_of(random_checkpoint, tars, tmp_path / "four", which) for which in slices]
    ends = run_at_once(runs, tmp_path)
    for which, (status, message) in zip(slices, ends, strict=True):
        assert status == 0
        assert message.startswith(f"slice {which}: ")
        assert message.endswith(f"when all slices are done: trimline finish output={tmp_path}/four")
    assert unit_names(tmp_path / "four") == unit_names(tmp_path / "one")
    assert lasting(rows(tmp_path / "four"), "run_id") == lasting(rows(tmp_path / "one"), "run_id")
    names = {file.name for file in (tmp_path / "four").iterdir()}
    assert names == {"run.json", "plan", "data", "slices", "done"}
    stamps = {file: file.stat().st_mtime_ns for file in (tmp_path / "four" / "data").iterdir()}
    for which in slices:
        outcome = stub_run(run_of(random_checkpoint, tars, tmp_path / "four", which))
        assert outcome.status == 0 and f"slice {which}: nothing to do" in outcome.message
    assert {file: file.stat().st_mtime_ns for file in (tmp_path / "four" / "data").iterdir()} == stamps
    whole = stub_run(run_of(random_checkpoint, tars, tmp_path / "four"))
    assert whole.status == 0 and "nothing to do" in whole.message
    assert (tmp_path / "four" / "_SUCCESS").exists()
    (verified,) = verify(Verification(output=str(tmp_path / "four")), HERE)
    assert verified.findings == []
    plans = [load_plan(canonical(str(tmp_path / name), HERE), HERE) for name in ("one", "four")]
    assert plans[0].table.equals(plans[1].table) and plans[1].parts == ("000000.parquet",)


def test_more_slices_than_shards(tmp_path, tars, random_checkpoint):
    for number in range(11):
        outcome = stub_run(run_of(random_checkpoint, tars, tmp_path / "out", f"{number}/11"))
        assert outcome.status == 0 and outcome.message.startswith(f"slice {number}/11")
        assert ("it has none of the 7 shards" in outcome.message) == (outcome.summary.shards == 0)
    note = json.loads((tmp_path / "out" / "slices" / "10-of-11.json").read_text())
    assert note["slice"] == "10/11" and note["first"] <= note["stop"] == 7
    assert note["host"] and note["begun"] > 0 and note["incidents"] is None
    whole = stub_run(run_of(random_checkpoint, tars, tmp_path / "out"))
    assert whole.status == 0 and "nothing to do" in whole.message


def test_a_slice_looks_at_its_own_shards_alone(tmp_path, tars, random_checkpoint):
    def prepared(which):
        return prepare(run_of(random_checkpoint, tars, tmp_path / "out", which))

    own = [prepared(f"{number}/3").own for number in range(3)]
    stub_run(run_of(random_checkpoint, tars, tmp_path / "out", "1/3"))
    for number in range(3):
        state = prepared(f"{number}/3")
        assert list(state.pending) == ([] if number == 1 else list(own[number]))
        assert {unit.shard for unit in state.states[0].finished} == (set(own[1]) if number == 1 else set())
    with (Path(tars.path) / f"{own[0].start}.tar").open("ab") as file:
        file.write(b"\0" * 512)
    for which in ("1/3", "2/3"):
        prepared(which)
    with pytest.raises(ConfigError, match=f"shard {own[0].start} has changed or is gone"):
        prepared("0/3")


def test_a_slice_with_nothing_to_make_leaves_the_success_of_all(tmp_path, tars, random_checkpoint):
    stub_run(run_of(random_checkpoint, tars, tmp_path / "out"))
    for which in ("0/2", "1/2"):
        stub_run(run_of(random_checkpoint, tars, tmp_path / "out", which))
        assert (tmp_path / "out" / "_SUCCESS").exists()
    (tmp_path / "out" / "data" / unit_names(tmp_path / "out")[0]).unlink()
    stub_run(run_of(random_checkpoint, tars, tmp_path / "out", "1/2"))
    assert (tmp_path / "out" / "_SUCCESS").exists()
    stub_run(run_of(random_checkpoint, tars, tmp_path / "out", "0/2"))
    assert not (tmp_path / "out" / "_SUCCESS").exists()


def test_a_slice_retries_its_own_failed_shards(tmp_path, tars, random_checkpoint):
    contents = {}
    for name in ("0.tar", "6.tar"):  # both break off, and are mended
        file = Path(tars.path) / name
        contents[file] = file.read_bytes()
        file.write_bytes(contents[file][: len(contents[file]) // 2 // 512 * 512 + 100])
    for which in ("0/2", "1/2"):
        outcome = stub_run(run_of(random_checkpoint, tars, tmp_path / "out", which))
        assert outcome.status == 1 and outcome.message.startswith(
            f"slice {which}: 1 shards could not be read"
        )
    for file, data in contents.items():
        file.write_bytes(data)
    of_first = [name for name in unit_names(tmp_path / "out") if name.startswith("000000-")]
    outcome = stub_run(run_of(random_checkpoint, tars, tmp_path / "out", "1/2", retry_failed=True))
    assert outcome.status == 0
    assert [name for name in unit_names(tmp_path / "out") if name.startswith("000000-")] == of_first
    names = {file.name for file in (tmp_path / "out" / "plan").iterdir()}
    assert names == {"000000.parquet", "renewed-000006.parquet"}
    assert stub_run(run_of(random_checkpoint, tars, tmp_path / "out", "0/2", retry_failed=True)).status == 0
    stub_run(run_of(random_checkpoint, tars, tmp_path / "new"))
    assert lasting(rows(tmp_path / "out"), "run_id") == lasting(rows(tmp_path / "new"), "run_id")


@pytest.mark.slow
def test_three_first_starts_make_one_plan(tmp_path, tars, random_checkpoint):
    runs = [run_of(random_checkpoint, tars, tmp_path / "out") for _ in range(3)]
    assert [status for status, _ in run_at_once(runs, tmp_path)] == [0, 0, 0]
    assert [file.name for file in (tmp_path / "out" / "plan").iterdir()] == ["000000.parquet"]
    assert stub_run(run_of(random_checkpoint, tars, tmp_path / "one")).status == 0
    assert unit_names(tmp_path / "out") == unit_names(tmp_path / "one")


def test_slices_in_a_store(tmp_path, tars, random_checkpoint, s3):
    output = f"s3://{BUCKET}/slices"
    runs = [run_of(random_checkpoint, tars, output, f"{number}/3", storage=s3) for number in range(3)]
    for run in runs:
        local = replace(run, source_storage=HERE)
        assert stub_run(local).status == 0
        state = prepare(local)
        assert {unit.shard for unit in state.states[0].finished} == set(state.own)
    stub_run(run_of(random_checkpoint, tars, tmp_path / "one"))
    assert unit_names(output, s3) == unit_names(tmp_path / "one")


class FailsFull(StubGenerate):
    """Is broken for the arm `full` alone."""

    def __init__(self, **arguments):
        if arguments["arms"][0].name == "full":
            raise RunError("the engine is broken")


def test_the_arms_before_a_model_that_fails_are_concluded(tmp_path, tars, random_checkpoint):
    """Of a comparison over two models; each slice of both has a note before the first one runs."""

    def group(name, which=None):
        config = run_of(random_checkpoint, tars, tmp_path / f"out-{which is None}", which)
        return replace(config, arms=(replace(config.arms[0], name=name, folder=name),))

    with (
        without_ray(encode=StubEncode, generate=FailsFull),
        pytest.raises(RunError, match="the engine is broken"),
    ):
        answer([group("good"), group("full")])
    assert (tmp_path / "out-True" / "good" / "_SUCCESS").exists()
    assert not (tmp_path / "out-True" / "full" / "summary.json").exists()
    with (
        without_ray(encode=StubEncode, generate=FailsFull),
        pytest.raises(RunError, match="the engine is broken"),
    ):
        answer([group("full", "0/2"), group("good", "0/2")])
    assert (tmp_path / "out-False" / "good" / "slices" / "0-of-2.json").exists()
