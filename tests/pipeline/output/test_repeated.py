"""Sample keys that come more than once, and question ids within one sample, are counted and named."""

import json
import shutil
from collections import Counter

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.common.entry import run_command
from pipeline.output.repeated import repeated_lines
from pipeline.output.summary import read_summary
from pipeline.sources.jsonl import Jsonl
from pipeline.sources.webdataset import WebDataset
from pipeline.support.hashes import Repeats, lasting_hashes
from tests.support.quick import HERE, quick_answer
from tests.support.tars import jpeg, write_members

NONE = {"count": 0, "first": []}


def test_hashes_are_the_same_in_every_process():
    assert lasting_hashes(["a", "\udce9"]).tolist() == [3405396810240292928, 5391841190683721022]


@given(st.lists(st.lists(st.sampled_from("abcdefghij"), max_size=5)), st.integers(0, 12))
def test_repeats_are_exact_in_memory_and_on_disk(units, in_memory):
    texts = [text for unit in units for text in unit]
    repeated = [place for place, text in enumerate(texts) if text in texts[:place]]
    with Repeats(in_memory) as repeats:
        for unit in units:
            repeats.add(lasting_hashes(unit))
        second = [place for place in repeated if texts[:place].count(texts[place]) == 1]
        assert repeats.count(3) == (len(repeated), second[:3])
        assert repeats.count(0) == (len(repeated), [])
        folder = repeats._folder and repeats._folder.name
    assert bool(folder) == (len(texts) > in_memory), "it goes to disk if it must"


def lines_of(folder, *lines):
    """Write a JSONL of (image, question id) with its images."""
    for image in {image for image, _ in lines}:
        (folder / image).write_bytes(jpeg(1))
    text = "".join(
        json.dumps({"image": image, "question_id": name, "text": "?"}) + "\n" for image, name in lines
    )
    (folder / "q.jsonl").write_text(text)
    return Jsonl(path=str(folder / "q.jsonl"), slice_files=2)


def repeated_of(output):
    return read_summary(str(output), HERE).repeated


@pytest.mark.slow
@settings(max_examples=20)
@given(
    st.lists(
        st.tuples(st.sampled_from(["a.jpg", "b.jpg", "c.jpg"]), st.integers(0, 2)), min_size=1, max_size=9
    )
)
def test_counts_are_those_of_the_rows(tmp_path_factory, lines):
    folder = tmp_path_factory.mktemp("lines")
    quick_answer(lines_of(folder, *lines), folder / "out", unit_samples=2)
    rows = [
        row for file in sorted((folder / "out" / "data").iterdir()) for row in pq.read_table(file).to_pylist()
    ]
    samples = {(row["source"], row["sample"]): row["sample_key"] for row in rows}
    ids = Counter((row["source"], row["sample"], row["question_id"]) for row in rows)
    found = repeated_of(folder / "out")
    assert found["sample_key"]["count"] == len(samples) - len(set(samples.values()))
    assert found["question_id"]["count"] == len(rows) - len(ids)
    keys = list(samples.values())
    first = [key for place, key in enumerate(keys) if keys[:place].count(key) == 1]
    assert found["sample_key"]["first"] == first[:3]


@pytest.fixture
def output(tmp_path):
    """An output of two tars that share two names; one sample asks twice under one id."""
    for tar, names in (("0.tar", "abc"), ("1.tar", "bxc")):
        members = [(f"{name}.jpg", jpeg(1)) for name in names]
        asked = [{"question_id": "q\x1b[2J", "question": "?"}] * 2
        members.insert(1, (f"{names[0]}.json", json.dumps({"questions": asked}).encode()))
        (tmp_path / "in").mkdir(exist_ok=True)
        write_members(tmp_path / "in" / tar, members)
    quick_answer(WebDataset(path=str(tmp_path / "in")), tmp_path / "out", unit_samples=2)
    return tmp_path / "out"


def test_both_are_told_by_summary_and_status_and_held_by_verify(output, capsys):
    found = repeated_of(output)
    assert found == {
        "sample_key": {"count": 2, "first": ["b", "c"]},
        "question_id": {"count": 2, "first": [r"q\x1b[2J of a", r"q\x1b[2J of b"]},
    }
    run_command("status", [f"output={output}"])
    out = capsys.readouterr().out
    assert "warning   repeated sample_key: 2 (b, c)" in out
    assert r"warning   repeated question_id within one sample: 2 (q\x1b[2J of a, q\x1b[2J of b)" in out
    assert run_command("verify", [f"output={output}", "deep=true"]) == 0
    summary = json.loads((output / "summary.json").read_text())
    summary["repeated"]["sample_key"]["count"] = 0
    (output / "summary.json").write_text(json.dumps(summary))
    capsys.readouterr()
    assert run_command("verify", [f"output={output}"]) == 1
    assert "summary.json: it counts 0 repeated sample_keys, data/ 2" in capsys.readouterr().out


def test_a_footer_whose_keys_are_not_its_rows_is_found(output, capsys):
    file = sorted((output / "data").iterdir())[0]
    table, metadata = pq.read_table(file), pq.read_metadata(file).metadata
    other = table.set_column(1, table.schema.field(1), pa.array(["z"] * table.num_rows))
    with pq.ParquetWriter(file, other.schema, write_page_checksum=True) as writer:
        writer.write_table(other)
        writer.add_key_value_metadata({b"trimline.sample_keys": metadata[b"trimline.sample_keys"]})
    assert run_command("verify", [f"output={output}"]) == 1
    assert "sample keys or repeated question ids are not those of its rows" in capsys.readouterr().out


def test_units_of_an_earlier_release_make_the_count_unknown(output, capsys):
    first = sorted((output / "data").iterdir())[0]
    table = pq.read_table(first)
    pq.write_table(table, first, write_page_checksum=True)  # without the keys' hashes
    (output / "summary.json").unlink()
    shutil.rmtree(output / "done")  # it wrote none
    quick_answer(WebDataset(path=str(output.parent / "in")), output, unit_samples=2)
    assert repeated_of(output) is None and "repeated" not in json.loads((output / "summary.json").read_text())
    run_command("status", [f"output={output}"])
    assert "repeated" not in capsys.readouterr().out
    assert run_command("verify", [f"output={output}"]) == 0


def test_nothing_is_said_of_nothing():
    assert list(repeated_lines(None)) == []
    assert list(repeated_lines({"sample_key": NONE, "question_id": NONE})) == []
