"""Test that an output is no part of a source, wherever it lies."""

import json
from pathlib import Path

import pytest

from pipeline.output import layout
from pipeline.sources.base import files_of
from pipeline.sources.parquet import Parquet
from pipeline.storage.listing import File, list_entries
from pipeline.storage.outputs import OWN_NAMES
from pipeline.storage.uris import Storage
from pipeline.support.census import Census, PassedOver, Reason
from pipeline.support.errors import ConfigError

HERE = Storage()
OUTPUT = {
    "run.json": json.dumps({"fingerprint": "0", "run_id": "1"}),
    "plan/000000.parquet": "",
    "data/000000-00000000-00000002-end.parquet": "",
    "_SUCCESS": "",
    "summary.json": "{}",
}


def write(root: str, files: dict[str, str], storage: Storage) -> None:
    fs, path = storage.open(root)
    for name, text in files.items():
        fs.makedirs(f"{path}/{name}".rpartition("/")[0], exist_ok=True)
        fs.pipe_file(f"{path}/{name}", text.encode())


def split(path: str, storage: Storage) -> tuple[set[str], dict[str, Reason]]:
    """List a path; returns the names of the files, and why the others are passed over."""
    entries = list(list_entries(path, storage))
    passed_over = {entry.name: entry.reason for entry in entries if isinstance(entry, PassedOver)}
    return {entry.uri.rpartition("/")[2] for entry in entries if isinstance(entry, File)}, passed_over


@pytest.fixture(params=["local", "s3", "memory"])
def place(request, tmp_path):
    """Make a source's folder in each kind of store."""
    if request.param == "s3":
        return f"s3://bucket/{tmp_path.name}", request.getfixturevalue("s3")
    return str(tmp_path / "source") if request.param == "local" else f"memory://{tmp_path.name}/source", HERE


def test_outputs_below_the_source_are_passed_over(place):
    root, storage = place
    below = {f"{folder}/{name}": text for folder in ("out", "deep/cmp/arm") for name, text in OUTPUT.items()}
    write(
        root,
        {"a.parquet": "", "run.json": "{}", "plan/b.parquet": "", "deep/c.parquet": "", **below},
        storage,
    )
    comparison = {
        "deep/cmp/comparison.json": '{"arms": {}, "baseline": "full"}',
        "deep/cmp/comparison.parquet": "",
    }
    write(root, comparison, storage)
    taken, passed_over = split(root, storage)
    assert taken == {"a.parquet", "run.json", "b.parquet", "c.parquet"}, "only outputs are passed over"
    assert set(passed_over) == {*below, *comparison}
    assert set(passed_over.values()) == {Reason.OUTPUT}


def test_the_run_s_own_output_is_passed_over_before_it_has_a_manifest(place):
    root, storage = place
    write(
        root,
        {"a.parquet": "", "out/plan/000000.parquet": "", "out/x.parquet": "", "outer.parquet": ""},
        storage,
    )
    own = storage.passing_over_outputs(storage, f"{root}/out")
    assert split(root, own) == (
        {"a.parquet", "outer.parquet"},
        {"out/plan/000000.parquet": Reason.OUTPUT, "out/x.parquet": Reason.OUTPUT},
    )
    census = Census()
    assert len(list(files_of(Parquet(path=root), own, census))) == 2
    assert census.passed_over == {Reason.OUTPUT: 2}
    enduring = own.enduring()
    assert split(root, enduring) == split(root, own)


def test_an_output_that_is_the_source_s_folder_or_lies_above_it(place):
    root, storage = place
    write(root, {"a.parquet": "", "sub/b.parquet": "", **OUTPUT}, storage)
    for passing_over in (storage.passing_over_outputs(storage, root), storage):
        taken, passed_over = split(root, passing_over)
        assert taken == {"a.parquet", "b.parquet"}
        assert set(passed_over) == set(OUTPUT)
    own = storage.passing_over_outputs(storage, root)
    assert split(f"{root}/sub", own)[0] == {"b.parquet"}
    with pytest.raises(ConfigError, match=r"no \.parquet at .*output of Trimline: 1"):
        list(Parquet(path=f"{root}/data").entries(own))


def test_an_output_behind_a_link_is_the_same_output(tmp_path):
    write(str(tmp_path / "source"), {"a.parquet": "", "out/x.parquet": ""}, HERE)
    (tmp_path / "linked").symlink_to("source")
    own = HERE.passing_over_outputs(HERE, str(tmp_path / "linked/out"))
    assert split(str(tmp_path / "source"), own)[0] == {"a.parquet"}
    assert split(str(tmp_path / "linked"), own)[0] == {"a.parquet"}


def test_another_store_s_folder_of_the_same_name_is_no_output():
    there = Storage(endpoint_url="http://127.0.0.1:1")
    assert there.passing_over_outputs(HERE, "s3://bucket/out").outputs == ()
    assert there.passing_over_outputs(there, "s3://bucket/out").outputs == ("s3://bucket/out",)
    assert there.passing_over_outputs(HERE, "out").outputs == (f"file://{Path.cwd()}/out",)


def test_the_names_are_those_of_the_layout():
    names = {value for name, value in vars(layout).items() if name.isupper()}
    assert names - OWN_NAMES == {layout.QUESTIONS}, "these a run on a cluster reads as its source"
