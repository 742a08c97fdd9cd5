"""The sums of finished shards in done/: exact, derived, and never trusted against the listing."""

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipeline.output import done
from pipeline.output.done import forget_sums, read_sums, sums_of_shards, times_of_sums
from pipeline.output.opened import open_output
from pipeline.output.summary import read_summary, sum_up, summarise
from pipeline.output.sums import SumsOfShards
from pipeline.sources.webdataset import WebDataset
from pipeline.support.errors import RunError
from tests.support.quick import HERE, quick_answer
from tests.support.tars import write_tar


@pytest.fixture
def output(tmp_path):
    """A finished output of three tars of 5 samples, in units of 2; the last tar has the keys of the first."""
    for number, seed in enumerate((0, 1, 0)):
        write_tar(tmp_path / "tars" / f"{number}.tar", 5, seed=seed, questions=2, width=24)
    quick_answer(WebDataset(path=str(tmp_path / "tars")), tmp_path / "out", unit_samples=2)
    return tmp_path / "out"


@pytest.fixture
def footers_read(monkeypatch):
    """The names of the unit files whose footers are read."""
    names, read = [], done.read_footer
    monkeypatch.setattr(
        done, "read_footer", lambda *args, **more: (names.append(args[1]), read(*args, **more))[1]
    )
    return names


def summed(output, storage=HERE):
    """The sums of all shards, and those that were kept of each whole shard."""
    opened = open_output(str(output), storage)
    sums = list(sums_of_shards(str(output), opened.plan, opened.finished, storage))
    kept = [read_sums(str(output), shard, storage) for shard in range(3) if opened.finished.has_shard(shard)]
    return sums, [one.to_json() for one in kept]


def files_of(output):
    return {file.name: file.read_bytes() for file in (output / "done").iterdir()}


def test_a_summary_from_sums_is_that_from_footers(output, footers_read):
    by_run = read_summary(str(output), HERE)
    opened = open_output(str(output), HERE)
    assert by_run.repeated["sample_key"]["count"] == 5 and by_run.starts == 1
    assert sum_up(str(output), opened.plan, opened.finished, HERE) == by_run
    assert footers_read == [], "the sums are there"
    before = files_of(output)
    for file in (output / "done").iterdir():
        file.unlink()
    assert sum_up(str(output), opened.plan, opened.finished, HERE) == by_run
    assert len(footers_read) == by_run.units == 9
    assert files_of(output) == before, "the same sums were written again"


@pytest.mark.parametrize(
    "damage",
    [
        lambda file: file.unlink(),
        lambda file: file.write_bytes(b"{"),
        lambda file: file.write_bytes(b""),
        lambda file: file.write_text(json.dumps({**json.loads(file.read_text()), "version": 0})),
        lambda file: file.write_text(json.dumps({**json.loads(file.read_text()), "stops": [2, 5]})),
        lambda file: file.write_text(json.dumps({**json.loads(file.read_text()), "source_etag": "other"})),
        lambda file: file.with_suffix(".keys").unlink(),
        lambda file: file.with_suffix(".keys").write_bytes(b"8 bytes."),
    ],
)
def test_sums_that_are_damaged_or_of_other_units_are_made_again(output, footers_read, damage):
    before, (_, sums) = files_of(output), summed(output)
    damage(output / "done" / "000001.json")
    assert summed(output)[1] == sums
    assert [name[:6] for name in footers_read] == ["000001"] * 3
    assert files_of(output) == before


def test_a_shard_that_is_not_whole_is_summed_up_without_sums(output):
    next(output.glob("data/000001-*-end.parquet")).unlink()
    forget_sums(str(output), [1], 3, HERE)
    assert [(one.shards, one.units, one.samples) for one in summed(output)[0]] == [
        (1, 3, 5),
        (1, 2, 4),
        (1, 3, 5),
    ]
    assert times_of_sums(str(output), 3, HERE).keys() == {0, 2}, "none was written"
    next(output.glob("data/000001-*")).unlink()
    assert [(one.units, one.samples) for one in summed(output)[0]] == [(3, 5), (1, 2), (3, 5)]


def test_a_unit_of_another_state_of_its_shard_is_told(output):
    (output / "done" / "000002.json").unlink()
    opened = open_output(str(output), HERE)
    table = opened.plan.table
    changed = table.set_column(table.schema.get_field_index("etag"), "etag", [["a", "b", "c"]])
    plan = replace(opened.plan, table=changed)
    with pytest.raises(RunError, match="samples 0 to 2 of shard 0 were made of another state"):
        summarise(str(output), plan, opened.finished, HERE)


def test_keys_are_not_read_where_only_counts_are_wanted(output):
    (output / "done" / "000000.keys").unlink()
    assert read_sums(str(output), 0, HERE) is None
    assert read_sums(str(output), 0, HERE, keys=False).rows == 7


def test_an_output_on_s3_has_the_same_sums(output, s3):
    fs, bucket = s3.open("s3://bucket/done-sums")
    fs.put(str(output), bucket, recursive=True)
    fs.rm(f"{bucket}/done", recursive=True)
    assert summed("s3://bucket/done-sums", s3)[1] == summed(output)[1]
    assert {Path(name).name for name in fs.ls(f"{bucket}/done")} == set(files_of(output))
    forget_sums("s3://bucket/done-sums", [0, 2, 7], 3, s3)
    assert times_of_sums("s3://bucket/done-sums", 3, s3).keys() == {1}


def test_sums_older_than_a_unit_count_as_missing(output, footers_read):
    """Another run of the same slice may have made a unit again, under the same name."""
    newest = max(file.stat().st_mtime for file in output.glob("done/000001.*"))
    unit = next(output.glob("data/000001-*-end.parquet"))
    os.utime(unit, (newest + 1, newest + 1))
    assert [one.samples for one in summed(output)[0]] == [5, 5, 5]
    assert len(footers_read) == 3, "those of the shard's units"


def test_shards_in_groups_have_the_sums_of_shards_one_by_one(output, monkeypatch):
    """Of very many shards some are added up together, whose keys keep their order."""
    (output / "done" / "000001.json").unlink()
    next(output.glob("data/000002-*-end.parquet")).unlink()
    one_by_one, _ = summed(output)
    monkeypatch.setattr(done, "_LEAST_GROUPS", 1)
    (together,), _ = summed(output)
    added = SumsOfShards()
    for one in one_by_one:
        added.add(one)
    added.hashes = np.concatenate([one.hashes for one in one_by_one])
    assert together.hashes.tolist() == added.hashes.tolist()
    assert vars(together) | {"hashes": None} == vars(added) | {"hashes": None}
    assert (together.shards, together.units, together.samples) == (3, 8, 14)
