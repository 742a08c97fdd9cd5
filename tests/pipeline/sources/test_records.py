"""Test JSONL, JSON arrays and CSV: the same records however they are written and wherever a slice begins."""

import base64
import csv
import io
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.sources.base import Question, Sample, Want, files_of
from pipeline.sources.items import samples_of
from pipeline.sources.jsonl import Jsonl
from pipeline.sources.records import read_records
from pipeline.storage.uris import Storage
from pipeline.support.errors import ConfigError, ShardError
from tests.support.tars import jpeg

HERE = Storage()
ASKED = [{"question_id": n, "image": f"{n % 2}.jpg", "text": f"what is {n}?"} for n in (1, 2, 3, 4)]
TOLD = [{"from": "human", "value": "<image>\nWhat is it?"}, {"from": "gpt", "value": "A disc."}]
TEXTS = st.text(max_size=20).filter(lambda text: text.strip() and "\0" not in text)


def read(folder: Path, name: str, content: bytes | str, **settings) -> list[Sample]:
    for n in (0, 1):
        (folder / f"{n}.jpg").write_bytes(jpeg(n))
    data = content.encode() if isinstance(content, str) else content
    (folder / name).write_bytes(data)
    source = Jsonl(path=str(folder / name), **settings)
    shards = list(source.shards(files_of(source, HERE), HERE))
    assert sum(shard.size for shard in shards) == len(data)
    samples = []
    for shard in shards:
        of_shard = list(samples_of(source, shard, HERE, lambda _: Want.ALL))
        assert shard.samples == len(of_shard)
        samples += of_shard
    return samples


def questions(samples: list[Sample]) -> list[tuple[str, str]]:
    assert not any(sample.fault or sample.question_fault for sample in samples)
    return [(question.question_id, question.text) for sample in samples for question in sample.questions]


def as_csv(rows: list[dict], delimiter: str = ",") -> str:
    sink = io.StringIO()
    writer = csv.DictWriter(sink, list(rows[0]), delimiter=delimiter)
    writer.writeheader()
    writer.writerows(rows)
    return sink.getvalue()


LAYOUTS = {
    "lines.jsonl": "".join(json.dumps(row) + "\n" for row in ASKED),
    "no_end.jsonl": "\n".join(map(json.dumps, ASKED)),
    "line.json": json.dumps(ASKED),
    "pretty.json": json.dumps(ASKED, indent=2),
    "mark.json": "\ufeff" + json.dumps(ASKED, indent="\t") + "\n\n",
    "array.jsonl": json.dumps(ASKED),
    "rows.csv": as_csv(ASKED),
    "rows.TSV": as_csv(ASKED, "\t"),
    "mark.csv": "\ufeff" + as_csv(ASKED),
    "blank_first.csv": "\n\r\n" + as_csv(ASKED),
}


@pytest.mark.parametrize("size", [1, 2, 3, 100])
@pytest.mark.parametrize("name", LAYOUTS)
def test_every_layout_has_the_same_samples(tmp_path, name, size):
    samples = read(tmp_path, name, LAYOUTS[name], slice_files=size)
    assert questions(samples) == [(str(row["question_id"]), row["text"]) for row in ASKED]
    assert [(sample.key, sample.image) for sample in samples] == [
        (row["image"], jpeg(int(row["image"][0]))) for row in ASKED
    ]


@settings(max_examples=60)
@given(
    st.lists(
        st.dictionaries(st.sampled_from(["text", "a", "b"]), TEXTS, min_size=1), min_size=1, max_size=12
    ),
    st.sampled_from(["lines", "array", "pretty", "csv"]),
)
def test_records_read_from_any_record_on_are_the_rest(tmp_path_factory, rows, layout):
    file = tmp_path_factory.mktemp("records") / ("a.csv" if layout == "csv" else "a.json")
    rows = [{"image": f"{index}.jpg", **row} for index, row in enumerate(rows)]
    if layout == "csv":
        names = ["image", "text", "a", "b"]
        text = as_csv([{name: row.get(name, "") for name in names} for row in rows])
    else:
        lines = "\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
        text = {"lines": lines, "array": json.dumps(rows), "pretty": json.dumps(rows, indent=1)}[layout]
    file.write_bytes(text.encode())
    uri, size = f"file://{file}", file.stat().st_size

    def opening(**_options):
        return file.open("rb")

    records = list(read_records(opening, uri, 0, size))
    assert [record.tree for record in records] == rows
    for number, record in enumerate(records):
        rest = list(read_records(opening, uri, record.stop, size)) if record.stop < size else []
        assert [again.tree for again in rest] == rows[number + 1 :]
        alone = list(read_records(opening, uri, 0, record.stop))
        assert [again.tree for again in alone] == rows[: number + 1]


def test_human_turns_of_a_training_file_are_asked(tmp_path):
    two = [*TOLD, {"from": "human", "value": "And round?"}, {"from": "gpt", "value": "Yes."}]
    chat = [{"role": "user", "content": "Which?"}, {"role": "assistant", "content": "This."}]
    rows = [
        {"id": "a", "image": "0.jpg", "conversations": TOLD},
        {"id": "b", "image": "1.jpg", "conversations": two},
        {"id": 7, "images": ["0.jpg"], "messages": chat},
    ]
    assert questions(read(tmp_path, "train.json", json.dumps(rows))) == [
        ("a", "<image>\nWhat is it?"),
        ("b-0", "<image>\nWhat is it?"),
        ("b-1", "And round?"),
        ("7", "Which?"),
    ]


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ({"image": ["0.jpg", "1.jpg"], "text": "?"}, "the line has 2 images"),
        ({"image": [], "text": "?"}, "the line names no image"),
        ({"image": None, "text": "?"}, "the line names no image"),
        ({"image": 7, "text": "?"}, "neither bytes nor a path, but int"),
        ({"image": "0.jpg", "conversations": "no list"}, "not a list of {from, value}"),
        ({"image": "0.jpg", "conversations": [7]}, "not a list of {from, value}"),
        ({"image": "0.jpg", "text": ["a"]}, "a text `question`"),
        ({"image": "0.jpg", "questions": {"a": 1}}, "the questions are not a list"),
        ({"image": "x" * 10_000, "text": "?"}, "too long"),
    ],
)
def test_an_unusable_line_says_why(tmp_path, line, fault):
    fine = {"image": "0.jpg", "text": "fine?"}
    rows = [fine, line, {**fine, "image": "1.jpg"}]
    samples = read(tmp_path, "q.jsonl", "\n".join(map(json.dumps, rows)))
    whole = [sample.fault or sample.question_fault for sample in samples]
    faults = [fault for fault in whole if fault] + [
        question.fault for sample in samples for question in sample.questions if question.fault
    ]
    assert [fault in str(told) for told in faults] == [True]
    texts = [question.text for sample in samples for question in sample.questions if not question.fault]
    assert texts.count("fine?") == 2


def test_null_is_absent_and_lists_of_one_are_one(tmp_path):
    rows = [
        {"image": ["0.jpg"], "text": None, "question": "a?", "question_id": 1.0},
        {"image": None, "file_name": "1.jpg", "questions": ["b?", {"question": "c?", "question_id": "x"}]},
        {"image": "0.jpg", "text": None, "question_id": None},
    ]
    samples = read(tmp_path, "q.json", json.dumps(rows))
    assert questions(samples) == [("1", "a?"), ("", "b?"), ("x", "c?"), ("", "")]
    assert [sample.key for sample in samples] == ["0.jpg", "1.jpg", "0.jpg"]


def test_keys_can_be_named(tmp_path):
    rows = [{"picture": "0.jpg", "caption": "what?", "n": 3, "text": "no"}, {"picture": "1.jpg", "n": 4}]
    named = {"image_key": "picture", "question_key": "caption", "question_id_key": "n"}
    samples = read(tmp_path, "q.json", json.dumps(rows), **named)
    assert samples[0].questions == (Question("3", "what?"),)
    assert [question.fault for question in samples[1].questions] == ["the line has no 'caption'"]
    samples = read(tmp_path, "q.json", json.dumps(rows))
    assert "the line names no image" in str(samples[0].fault)


def test_images_within_lines_are_decoded(tmp_path):
    text = base64.b64encode(jpeg(3)).decode()
    rows = [
        {"image": text, "text": "a?"},
        {"image": text, "text": "b?"},
        {"image": f"data:image/jpeg;base64,{text}", "text": "c?"},
        {"image": text[:-9] + "!", "text": "d?"},
        {"image": f"data:image/jpeg;base64,{text[:-9]}!", "text": "e?"},
    ]
    samples = read(tmp_path, "q.jsonl", "\n".join(map(json.dumps, rows)))
    assert [sample.image for sample in samples[:2]] == [jpeg(3)] * 2
    assert [len(sample.questions) for sample in samples] == [2, 1, 1, 1]
    keys = [sample.key for sample in samples]
    assert all(key.startswith("byte ") for key in keys) and len(set(keys)) == 4
    assert str(samples[2].fault) == "the image's base64 is damaged"
    assert str(samples[3].fault) == "the image's data URI is damaged"


def test_a_line_with_a_large_image_is_read_and_one_of_many_parts_is_not(tmp_path):
    text = base64.b64encode(jpeg(3) + bytes(6 << 20)).decode()
    many = '{"image": "0.jpg", "x": [' + "0," * (3 << 20) + '0], "text": "?"}'
    samples = read(tmp_path, "q.jsonl", json.dumps({"image": text, "text": "a?"}) + "\n" + many)
    assert samples[0].fault is None and samples[0].image == jpeg(3) + bytes(6 << 20)
    assert "too long" in str(samples[1].fault)


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("q.json", json.dumps({"questions": ASKED}, indent=2), "one JSON object over several lines"),
        ("q.json", "\n\n" + json.dumps(ASKED[0], indent=1), "one JSON object over several lines"),
        ("q.jsonl", json.dumps(ASKED[0], indent=1) + "\n" + json.dumps(ASKED[1], indent=1), "several lines"),
        ("q.jsonl", json.dumps(ASKED[0]).encode("utf-16"), "is UTF-16"),
        ("q.csv", as_csv(ASKED).encode("utf-16"), "is UTF-16"),
    ],
)
def test_a_file_of_another_layout_is_refused_by_name(tmp_path, name, content, reason):
    with pytest.raises(ConfigError, match=rf"source\.path: file://.*{name} .*{reason}"):
        read(tmp_path, name, content)


@pytest.mark.parametrize(
    ("rest", "reason"),
    [
        ("", "it has no end"),
        ('{"image": "0.jpg"', "damaged or too long"),
        ("nonsense]", "damaged or too long"),
        ("] more", "something follows"),
        ('][{"image": "1.jpg"}]', "something follows"),
    ],
)
@pytest.mark.parametrize("size", [1, 100])
def test_an_array_is_read_up_to_its_damage(tmp_path, rest, reason, size):
    (tmp_path / "0.jpg").write_bytes(jpeg(0))
    (tmp_path / "q.json").write_text('[{"image": "0.jpg"}, {"image": "./0.jpg"}, ' + rest)
    source = Jsonl(path=str(tmp_path / "q.json"), slice_files=size)
    shards = list(source.shards(files_of(source, HERE), HERE))
    samples = []
    with pytest.raises(ShardError, match=reason):
        for shard in shards:
            for sample in samples_of(source, shard, HERE, lambda _: Want.ALL):
                samples.append(sample)
    assert [sample.key for sample in samples] == ["0.jpg", "./0.jpg"]


def test_rows_of_a_csv_may_hold_lines_quotes_and_too_many_cells(tmp_path):
    text = 'file_name,text\n0.jpg,"two\nlines, ""quoted"""\n1.jpg,a,b\n\n1.jpg,caf\u00e9 5" wide\n0.jpg\n'
    samples = read(tmp_path, "metadata.csv", text)
    assert [[question.text for question in sample.questions] for sample in samples] == [
        ['two\nlines, "quoted"'],
        [],
        ['caf\u00e9 5" wide'],
        [""],
    ]
    assert str(samples[1].fault) == "the row has 3 cells, and the first row 2"


def test_a_plan_that_counts_other_samples_is_told(tmp_path):
    """Releases before this one read each line of an array as a sample."""
    (tmp_path / "q.json").write_text(json.dumps(ASKED, indent=2))
    source = Jsonl(path=str(tmp_path / "q.json"))
    (shard,) = source.shards(files_of(source, HERE), HERE)
    old = type(shard)(**{**vars(shard), "samples": 22})
    with pytest.raises(ShardError, match="it has 4 samples where the plan has 22"):
        list(samples_of(source, old, HERE, lambda _: Want.NOTHING))


def test_a_quote_that_is_not_closed_is_a_fault_of_its_row_alone(tmp_path):
    text = 'image,text\n0.jpg,"What?\n1.jpg,Why?\n0.jpg,"so "it" is"\n1.jpg,"two\nlines"\n0.jpg,"\n'
    samples = read(tmp_path, "q.csv", text, slice_files=1)
    assert [sample.fault is not None for sample in samples] == [True, False, True, False, True]
    assert [question.text for sample in samples for question in sample.questions] == ["Why?", "two\nlines"]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ('image,"text\n0.jpg,a\n', "does not name the columns"),
        ("\0" * 50, "does not name the columns"),
        ("image,text\r0.jpg,a\r", "does not name the columns"),
        ("image,text,text\n0.jpg,a,b\n", "two columns have the name 'text'"),
    ],
)
def test_a_csv_without_names_of_columns_is_a_broken_shard(tmp_path, content, reason):
    (tmp_path / "q.csv").write_text(content)
    source = Jsonl(path=str(tmp_path / "q.csv"))
    (shard,) = source.shards(files_of(source, HERE), HERE)
    with pytest.raises(ShardError, match=reason):
        list(samples_of(source, shard, HERE, lambda _: Want.ALL))


def test_csvs_are_read_only_if_the_path_names_them(tmp_path):
    read(tmp_path, "q.jsonl", '{"image": "0.jpg", "text": "?"}')
    (tmp_path / "notes.csv").write_text("a,b\n1,2\n")
    assert [file.uri[-7:] for file in files_of(Jsonl(path=str(tmp_path)), HERE)] == ["q.jsonl"]
    assert [file.uri[-9:] for file in files_of(Jsonl(path=f"{tmp_path}/*.csv"), HERE)] == ["notes.csv"]


def test_every_line_leaves_a_question_or_says_why_it_has_none(tmp_path):
    rows = [
        {"image": "0.jpg", "text": "q?"},
        {"image": "0.jpg", "questions": []},
        {"image": "0.jpg", "conversations": [{"from": "someone", "value": "lost?"}]},
        {"image": "0.jpg", "questions": [None, "b?"]},
        {"image": "0.jpg", "questions": 7},
    ]
    (sample,) = read(tmp_path, "q.jsonl", "\n".join(map(json.dumps, rows)))
    assert [(question.text, question.fault) for question in sample.questions] == [
        ("q?", None),
        ("", "the line has no question"),
        ("", "the line has no question"),
        ("b?", None),
        ("", "the questions are not a list: int"),
    ]


def test_a_named_id_that_is_missing_is_told(tmp_path):
    rows = [
        {"image": "0.jpg", "questions": [{"question": "a?", "id": 3}]},
        {"image": "1.jpg", "id": "x", "conversations": TOLD},
    ]
    samples = read(tmp_path, "q.jsonl", "\n".join(map(json.dumps, rows)), question_id_key="idd")
    faults = [question.fault for sample in samples for question in sample.questions]
    assert faults == ["a question has no 'idd'", "the line has no 'idd'"]
    samples = read(tmp_path, "q.jsonl", "\n".join(map(json.dumps, rows)), question_id_key="id")
    assert [question.question_id for sample in samples for question in sample.questions] == ["3", "x"]
