"""Test that an output of an earlier release is continued if today's rules make no difference to it."""

import dataclasses
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.output.manifest import RULES
from pipeline.run.earlier_rules import require_same_rules
from pipeline.sources.images import Images
from pipeline.sources.jsonl import Jsonl
from pipeline.sources.webdataset import WebDataset
from pipeline.support.errors import ConfigError
from tests.support.quick import quick_answer, quick_prepare
from tests.support.runs import make_config
from tests.support.tars import jpeg, write_tar


def folder(path: Path) -> Images:
    for n in range(5):
        (path / "in").mkdir(exist_ok=True)
        (path / "in" / f"{n}.jpg").write_bytes(jpeg(n, 16))
        (path / "in" / f"{n}.txt").write_text(f"what is {n}?")
    return Images(path=str(path / "in"))


def lines(path: Path) -> Jsonl:
    folder(path)
    rows = [{"question_id": n, "image": f"in/{n}.jpg", "text": f"what is {n}?"} for n in range(5)]
    (path / "q.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return Jsonl(path=str(path / "q.jsonl"))


def tar(path: Path) -> WebDataset:
    return WebDataset(path=str(write_tar(path / "a.tar", 5, width=24)))


KINDS = [folder, lines, tar]


def begin(path: Path, kind) -> tuple:
    """Answer a source in units of two samples, and take the last unit away."""
    source = kind(path)
    quick_answer(source, path / "out", unit_samples=2)
    units = sorted((path / "out" / "data").iterdir())
    units[-1].unlink()
    return source, units[0]


def check(path: Path, source, rules: int) -> None:
    prepared = quick_prepare(source, path / "out", unit_samples=2)
    earlier = [
        dataclasses.replace(state.manifest, counted={**state.manifest.counted, RULES: rules})
        for state in prepared.states
    ]
    config = make_config(path, source, path / "out", unit_samples=2)
    require_same_rules(config, source, prepared.plan, prepared.states[0].finished, earlier)


def change(unit: Path, column: str, value: str) -> None:
    """Write a unit with another value in its first row, as another rule would have."""
    table = pq.read_table(unit)
    values = [value, *table[column].to_pylist()[1:]]
    at = table.schema.get_field_index(column)
    pq.write_table(table.set_column(at, table.schema.field(column), pa.array(values)), unit)


@pytest.mark.parametrize("kind", KINDS)
def test_an_output_that_the_rules_do_not_touch_is_continued(tmp_path, kind):
    source, _ = begin(tmp_path, kind)
    check(tmp_path, source, rules=1)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("column", "value"),
    [("question", "<image>\nwhat is 0?"), ("question_id", "0.0"), ("sample_key", "set[1]/0.jpg")],
)
def test_an_output_that_they_touch_is_refused_by_name(tmp_path, kind, column, value):
    source, unit = begin(tmp_path, kind)
    change(unit, column, value)
    with pytest.raises(ConfigError, match=r"other rules, which differ for file://.*: finish it with that"):
        check(tmp_path, source, rules=1)
    check(tmp_path, source, rules=source.rules)


def test_a_jsonl_that_is_cut_into_other_samples_is_refused(tmp_path):
    source, _ = begin(tmp_path, lines)
    shards = sorted((tmp_path / "out" / "plan").iterdir())
    table = pq.read_table(shards[0])
    at = table.schema.get_field_index("samples")
    counts = pa.array([4], pa.int64())
    metadata = pq.ParquetFile(shards[0]).metadata.metadata
    changed = table.set_column(at, table.schema.field("samples"), counts)
    pq.write_table(changed.replace_schema_metadata({b"source": metadata[b"source"]}), shards[0])
    with pytest.raises(ConfigError, match=r"which differ for file://.*q\.jsonl#0-"):
        check(tmp_path, source, rules=1)
