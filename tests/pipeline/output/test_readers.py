"""Test outputs in common Parquet readers, including empty and all-failed outputs."""

import datasets
import duckdb
import pandas
import polars
import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet as pq
import pytest

from pipeline.output.units import Unit
from pipeline.stages.rows import UnitRow, pack_unit
from pipeline.stages.write import ArmOutput, write_unit
from pipeline.storage.uris import Storage
from pipeline.support.schema import PREDICTIONS, REQUESTS

TRACE = {
    **{"uri": "file:///a.tar", "shard_error": None, "source_bytes": 1, "image_bytes": 1},
    **{"source_size": 9, "source_etag": "e"},
}


def request(index, status):
    common = {
        "arm": 0,
        "key": f"000000-{index:08d}-0000",
        "sample_key": f"s{index}",
        "question_id": "0",
        "sample": index,
        "question": "what?",
        "status": status,
    }
    if status != "ok":
        return common | {"error": "told"}
    counts = {"visual_tokens_full": 576, "visual_tokens_kept": 100, "prompt_tokens": 9, "generated_tokens": 3}
    return (
        common
        | counts
        | {"prediction": "a cat", "kept_patches": bytes(72), "generate_s": 0.1, "prefill_s": 0.1}
    )


def write(folder, statuses):
    """Write an output of two units: the given rows, and none."""
    for shard, shard_statuses in ((0, statuses), (1, [])):
        rows = [request(index, status) for index, status in enumerate(shard_statuses)]
        tables = {"requests": pa.Table.from_pylist(rows, schema=REQUESTS)}
        row = UnitRow(Unit(shard, 0, len(rows), True), tables, TRACE | {"requests": len(rows)})
        row = row.passed("read", 0.0, tables)
        outputs = (ArmOutput(str(folder), "trim", "fp", "run", "demo"),)
        write_unit(pack_unit(row), outputs=outputs, storage=Storage(), attempt="1")
    return folder / "data"


@pytest.mark.parametrize(
    "statuses",
    [["ok", "bad_image", "ok"], ["ok"], ["bad_image", "failed"], []],
    ids=["mixed", "single", "all failed", "empty"],
)
def test_every_reader_reads_the_same_rows(tmp_path, statuses):
    data = write(tmp_path / "out", statuses)
    files = sorted(map(str, data.iterdir()))
    glob = f"{data}/*.parquet"
    read_by: dict[str, list[str]] = {
        "pyarrow": pq.read_table(data)["status"].to_pylist(),
        "pyarrow.dataset": pyarrow.dataset.dataset(str(data)).to_table()["status"].to_pylist(),
        "pandas": pandas.read_parquet(data)["status"].tolist(),
        "duckdb": [row[0] for row in duckdb.sql(f"select status from '{glob}' order by key").fetchall()],
        "polars": polars.read_parquet(glob)["status"].to_list(),
    }
    if statuses:  # `datasets` raises an error for a split without rows
        loaded = datasets.load_dataset(
            "parquet", data_files=files, split="train", cache_dir=str(tmp_path / "cache")
        )
        read_by["datasets"] = loaded["status"][:]
    assert read_by == {name: statuses for name in read_by}


def test_types_and_nulls_survive(tmp_path):
    data = write(tmp_path / "out", ["ok", "bad_image"])
    assert pq.read_table(data).schema.equals(PREDICTIONS)
    frame = polars.read_parquet(f"{data}/*.parquet").sort("key")
    assert frame["visual_tokens_kept"].to_list() == [100, None]
    assert frame["prediction"].to_list() == ["a cat", None]
    assert frame["error"].to_list() == [None, "told"]
    assert duckdb.sql(f"select sum(visual_tokens_kept) from '{data}/*.parquet'").fetchall() == [(100,)]
