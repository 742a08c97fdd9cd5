"""Exports hold the answers of the output, in its order, in formats that other tools read."""

import json
import tarfile

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
import webdataset

from pipeline.export.export import export
from pipeline.export.options import Export
from pipeline.sources.base import Want, files_of
from pipeline.sources.parquet import Parquet
from pipeline.sources.webdataset import WebDataset
from pipeline.support.errors import ConfigError
from pipeline.support.schema import PREDICTIONS
from tests.support.quick import HERE, quick_answer
from tests.support.tars import add, extract_all, jpeg, write_members, write_tar


@pytest.fixture
def output(tmp_path):
    """Two shards; the second has a sample without an image."""
    write_tar(tmp_path / "in" / "a.tar", 5, questions=2)
    sidecar = b'{"question": "what?"}'
    write_members(tmp_path / "in" / "b.tar", [("x.jpg", jpeg(1)), ("x.json", sidecar), ("y.json", sidecar)])
    quick_answer(WebDataset(path=str(tmp_path / "in")), tmp_path / "out", unit_samples=2)
    return tmp_path / "out"


def rows_of(output, *statuses):
    rows = pq.read_table(output / "data").sort_by("key").to_pylist()
    return [row for row in rows if row["status"] in (statuses or ("ok",))]


def test_llava_has_one_line_per_sample_and_two_turns_per_question(output, tmp_path):
    assert (
        export(Export(output=str(output), to=str(tmp_path / "a.jsonl")), HERE).rows
        == len(rows_of(output))
        > 6
    )
    lines = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    turns = [turn for line in lines for turn in line["conversations"]]
    pairs = [(row["question"], row["prediction"]) for row in rows_of(output)]
    assert [turn["value"].removeprefix("<image>\n") for turn in turns] == [
        text for pair in pairs for text in pair
    ]
    assert [turn["from"] for turn in turns] == ["human", "gpt"] * len(pairs)
    assert all(line["conversations"][0]["value"].startswith("<image>\n") for line in lines)
    assert len(lines) == len({row["sample_key"] for row in rows_of(output)})


def test_webdataset_keeps_the_original_image_bytes(output, tmp_path):
    count = export(Export(output=str(output), to=str(tmp_path / "tars"), format="webdataset"), HERE).rows
    tars = sorted(map(str, (tmp_path / "tars").iterdir()))
    samples = list(webdataset.WebDataset(tars, shardshuffle=False, empty_check=False))
    answers = [answer for sample in samples for answer in json.loads(sample["json"])["answers"]]
    assert [answer["key"] for answer in answers] == [row["key"] for row in rows_of(output)]
    assert len(answers) == count
    assert {len(json.loads(sample["json"])["answers"]) for sample in samples if "txt" in sample} == {1}
    assert (samples[0]["jpg"], samples[-1]["jpg"]) == (jpeg(0), jpeg(1))
    again = WebDataset(path=str(tmp_path / "tars"))
    (shard, _) = again.shards(files_of(again, HERE), HERE)
    assert sum(1 for _ in again.samples(shard, HERE, lambda _: Want.ALL)) == 5


def test_keys_in_a_webdataset_are_unique_and_safe(tmp_path):
    names = ["a.b", "a_b", "x", "x", "../../evil", "/abs/evil", "./x", "caf\udce9", "c/../../evil"]
    (tmp_path / "in").mkdir()
    with tarfile.open(tmp_path / "in" / "a.tar", "w") as tar:
        for name in names:
            add(tar, f"{name}.jpg", jpeg(1))
            add(tar, f"{name}.json", b'{"question": "what?"}')
    quick_answer(WebDataset(path=str(tmp_path / "in")), tmp_path / "out")
    export(Export(output=str(tmp_path / "out"), to=str(tmp_path / "to"), format="webdataset"), HERE)
    samples = list(webdataset.WebDataset(str(tmp_path / "to" / "000000.tar"), shardshuffle=False))
    keys = [json.loads(sample["json"])["sample_key"] for sample in samples]
    assert keys == [name.replace("\udce9", "\\xe9") for name in names]
    inside = tmp_path / "here" / "inside"
    extract_all(tmp_path / "to" / "000000.tar", inside)
    assert [path for path in tmp_path.rglob("*evil*") if not path.is_relative_to(inside)] == []


def test_parquet_is_partitioned(output, tmp_path):
    options = Export(
        output=str(output),
        to=str(tmp_path / "rows"),
        format="parquet",
        statuses=["ok", "bad_sample"],
        partition_by=["status"],
    )
    assert export(options, HERE).rows == len(rows_of(output, "ok", "bad_sample"))
    assert {place.name for place in (tmp_path / "rows").iterdir()} == {"status=ok", "status=bad_sample"}
    table = ds.dataset(tmp_path / "rows", partitioning="hive").to_table().select(PREDICTIONS.names)
    assert table.sort_by("key").to_pylist() == rows_of(output, "ok", "bad_sample")


def answered_keys(tmp_path, keys):
    """Answer a table whose samples have these keys."""
    table = pa.table({"image": [jpeg(0)] * len(keys), "question": ["What?"] * len(keys), "key": keys})
    pq.write_table(table, tmp_path / "keys.parquet")
    quick_answer(Parquet(path=str(tmp_path / "keys.parquet"), key_column="key"), tmp_path / "keyed")
    return Export(
        output=str(tmp_path / "keyed"),
        to=str(tmp_path / "rows"),
        format="parquet",
        partition_by=["sample_key"],
    )


def test_values_that_lead_upwards_become_names_of_folders(tmp_path):
    keys = ["..", "a/../../b", "/abs", "x\x1b\n", "é", "", "%2e%2e", "a=b"]
    assert export(answered_keys(tmp_path, keys), HERE).rows == len(keys)
    partitioning = ds.partitioning(pa.schema([("sample_key", pa.string())]), flavor="hive")
    table = ds.dataset(tmp_path / "rows", partitioning=partitioning).to_table()
    assert sorted(table["sample_key"].to_pylist()) == sorted(keys)
    assert len(list((tmp_path / "rows").iterdir())) == len(keys)


@pytest.mark.parametrize(
    ("keys", "reason"),
    [
        (["x", "x\0y"], r"partition_by: a value of sample_key cannot be a folder's name: x\\x00y"),
        (["é" * 50], "cannot be a folder's name: é"),
        ([str(number) for number in range(1025)], "partition_by: the values make more than 1,024 folders"),
    ],
)
def test_values_that_cannot_be_folders_are_refused_before_anything_is_written(tmp_path, keys, reason):
    with pytest.raises(ConfigError, match=reason):
        export(answered_keys(tmp_path, keys), HERE)
    assert not (tmp_path / "rows").exists()


@pytest.mark.parametrize("images", ["to.json", "to.json/", "./to.json", "to.json/a/b", "x/../to.json"])
def test_images_may_not_lie_where_the_file_is_written(output, tmp_path, monkeypatch, images):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"^images: .* lies at `to`, which is a file"):
        export(Export(output=str(output), to=str(tmp_path / "to.json"), images=images), HERE)
    assert not (tmp_path / "to.json").exists()


def test_the_file_may_lie_beside_and_among_the_images(output, tmp_path):
    for to, images in (("a.json", "a.json.images"), ("all/a.json", "all")):
        assert export(
            Export(output=str(output), to=str(tmp_path / to), images=str(tmp_path / images)), HERE
        ).rows
        assert json.loads((tmp_path / to).read_text())


def test_wrong_options_are_refused(output, tmp_path):
    def refused(reason, error=ConfigError, **fields):
        with pytest.raises(error, match=reason):
            export(Export(**{"output": str(output), "to": str(tmp_path / "to"), **fields}), HERE)

    refused("'coco' is none of", format="coco")
    refused("statuses: 'fine' is none of", statuses=["fine"])
    refused("^statuses: name at least one of ok, ", statuses=[])
    refused("^format: 'coco' is none of llava, llava_answers, webdataset, parquet$", format="coco")
    refused("there is no column 'colour'", format="parquet", partition_by=["colour"])
    refused("partition_by needs format=parquet", partition_by=["status"])
    refused("partition_by: kept_patches holds bytes", format="parquet", partition_by=["kept_patches"])
    refused("members needs format=webdataset", members="all")
    refused("'some' is none of", members="some", format="webdataset")
    refused("'hex' is none of", question_ids="hex", format="llava_answers")
    refused("to: .* exists already", to=str(tmp_path / "in"))
    refused("to: .* exists already", to=str(tmp_path / "in" / "a.tar"), format="webdataset")
    refused("is no output of Trimline", output=str(tmp_path / "in"))
    refused("exists already", to=str(output), format="parquet")
    refused("source.path: nothing at file:///nowhere/a.tar", source="/nowhere", format="webdataset")
    next((output / "data").glob("*-end.parquet")).unlink()
    refused("is not finished")
