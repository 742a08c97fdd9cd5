"""Exported tars are read back by webdataset and datasets, with all members of the original if asked for."""

import base64
import gzip
import io
import json
import tarfile

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import webdataset
from hypothesis import given
from hypothesis import strategies as st

from pipeline.export.export import export
from pipeline.export.options import Export
from pipeline.sources.archive import Archive
from pipeline.sources.base import Want
from pipeline.sources.groups import Grouping
from pipeline.sources.images import Images
from pipeline.sources.jsonl import Jsonl
from pipeline.sources.parquet import Parquet
from pipeline.sources.tar_members import members_of
from pipeline.sources.webdataset import WebDataset
from pipeline.support.census import PassedOver
from pipeline.support.errors import ConfigError
from tests.support.quick import HERE, quick_answer
from tests.support.tars import add, extract_all, jpeg, write_members

ASKED = b'{"question": "what?", "caption": "mine"}'


def exported(tmp_path, source, **options):
    """Answer a source and export it; returns webdataset's samples without its own fields, and the notes."""
    quick_answer(source, tmp_path / "out")
    options = {"format": "webdataset", **options}
    written = export(Export(output=str(tmp_path / "out"), to=str(tmp_path / "to"), **options), HERE)
    tars = sorted(map(str, (tmp_path / "to").iterdir()))
    samples = list(webdataset.WebDataset(tars, shardshuffle=False, empty_check=False))
    assert written.rows == len(samples)
    return samples, written.notes


def answers(sample):
    return json.loads(sample["answers.json"])["answers"]


def fields(sample):
    return {name for name in sample if not name.startswith("__")}


def test_equal_names_are_five_samples(tmp_path):
    keys = ["a.b", "a_b", "x", "x", "/abs/y", "X", "../../up"]
    pictures = [jpeg(number) for number in range(len(keys))]
    table = pa.table({"image": pictures, "question": ["What?"] * len(keys), "key": keys})
    pq.write_table(table, tmp_path / "a.parquet")
    samples, _ = exported(tmp_path, Parquet(path=str(tmp_path / "a.parquet"), key_column="key"))
    assert [sample["jpg"] for sample in samples] == pictures
    assert [json.loads(sample["json"])["sample_key"] for sample in samples] == keys
    assert len({sample["__key__"].casefold() for sample in samples}) == len(keys)
    extract_all(tmp_path / "to" / "000000.tar", tmp_path / "there" / "here")
    assert len(list((tmp_path / "there" / "here").rglob("*.jpg"))) == len(keys)


def test_all_members_of_a_tars_sample_are_copied(tmp_path):
    members = [
        ("a.cls", b"3"),
        ("a.jpg", jpeg(0)),
        ("a.json", ASKED),
        ("a.seg.npy", b"numbers"),
        ("a.answers.json", b"the user's"),
        ("b.jpg", jpeg(1)),
        ("b.txt", b"what?"),
        ("b.CLS", b"4"),
        ("b.cls", b"5"),
        ("c/d.left.jpg", jpeg(2)),
        ("c/d.left.json", ASKED),
        ("c/d.left.cls", b"6"),
        ("c/d.right.jpg", jpeg(3)),
        ("c/d.json", ASKED),
        ("c/d.cls", b"7"),
        ("c/._d.cls", b"hidden"),
    ]
    source = WebDataset(path=str(write_members(tmp_path / "a.tar", members)))
    (a, b, left, right), notes = exported(tmp_path, source, members="all")
    assert notes == []
    ours = {"jpg", "answers.json", "answers.txt"}
    assert fields(a) == {"jpg", "cls", "json", "seg.npy", "answers.json", "2.answers.json", "answers.txt"}
    assert (a["cls"], a["json"], a["seg.npy"], a["answers.json"]) == (b"3", ASKED, b"numbers", b"the user's")
    assert json.loads(a["2.answers.json"])["answers"][0]["prediction"] == "yes"
    assert fields(b) == {*ours, "txt", "cls", "2.cls"} and (b["txt"], b["cls"], b["2.cls"]) == (
        b"what?",
        b"4",
        b"5",
    )
    assert fields(left) == {*ours, "json", "cls", "group.cls", "group.json"} and left["cls"] == b"6"
    assert fields(right) == {*ours, "json", "cls"} and right["cls"] == b"7"


def test_a_member_that_is_no_plain_file_is_told(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        add(tar, "a.jpg", jpeg(0))
        add(tar, "a.txt", b"what?")
        link = tarfile.TarInfo("a.cls")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    (sample,), (note,) = exported(tmp_path, WebDataset(path=str(tmp_path / "a.tar")), members="all")
    assert fields(sample) == {"jpg", "txt", "answers.json", "answers.txt"}
    assert note == "1 members are left out (a.cls: it is a link, a device or sparse, not a plain file)"


def test_sidecars_of_a_folder_are_copied(tmp_path):
    (tmp_path / "in").mkdir()
    for number, name in enumerate("ab"):
        (tmp_path / "in" / f"{name}.jpg").write_bytes(jpeg(number))
        (tmp_path / "in" / f"{name}.json").write_bytes(ASKED)
    samples, _ = exported(tmp_path, Images(path=str(tmp_path / "in")), members="all")
    assert [sample["__key__"] for sample in samples] == ["a_jpg", "b_jpg"]
    assert all(sample["json"] == ASKED and answers(sample) for sample in samples)


def test_a_tables_other_columns_are_copied(tmp_path):
    columns = {
        "image": [jpeg(0), b"no image", jpeg(2)],
        "question": ["What?"] * 3,
        "url": ["u0", None, "\u96ea"],
        "raw": [b"\0\xff", b"", None],
        "box": [[1, 2], [], None],
    }
    pq.write_table(pa.table(columns), tmp_path / "a.parquet", row_group_size=2)
    samples, _ = exported(tmp_path, Parquet(path=str(tmp_path / "a.parquet")), members="all")
    rows = [json.loads(sample["columns.json"]) for sample in samples]
    assert [row["url"] for row in rows] == columns["url"] and [row["box"] for row in rows] == columns["box"]
    assert base64.b64decode(rows[0]["raw"]) == b"\0\xff" and "image" not in rows[0]


def test_a_source_without_other_members_is_refused(tmp_path):
    (tmp_path / "0.jpg").write_bytes(jpeg(0))
    (tmp_path / "q.jsonl").write_text('{"image": "0.jpg", "text": "What?"}\n')
    with pytest.raises(ConfigError, match="members: a source of Jsonl has no other members"):
        exported(tmp_path, Jsonl(path=str(tmp_path / "q.jsonl")), members="all")
    assert not (tmp_path / "to").exists()


def test_datasets_reads_the_tars(tmp_path):
    members = [
        (f"{number}.{suffix}", data)
        for number in range(3)
        for suffix, data in (("jpg", jpeg(number)), ("txt", b"what?"), ("cls", b"1"))
    ]
    source = WebDataset(path=str(write_members(tmp_path / "a.tar", members)))
    exported(tmp_path, source, members="all")
    read = datasets.load_dataset(
        "webdataset",
        data_files=str(tmp_path / "to" / "*.tar"),
        split="train",
        streaming=True,
    )
    rows = list(read)
    assert [row["__key__"] for row in rows] == ["0", "1", "2"]
    assert all(row["answers.json"]["answers"] and row["answers.txt"] == "yes" for row in rows)


def test_a_broken_tar_is_exported_as_far_as_it_was_answered(tmp_path):
    path = write_members(
        tmp_path / "a.tar",
        [(f"{number}.{kind}", jpeg(number)) for number in range(3) for kind in ("jpg", "cls")],
    )
    data = path.read_bytes()
    path.write_bytes(data[: data.index(b"2.cls") + 600])
    quick = {"members": "all", "statuses": ["ok", "bad_question"]}
    samples, _ = exported(tmp_path, WebDataset(path=str(path)), **quick)
    assert [sample["jpg"] for sample in samples] == [jpeg(number) for number in range(3)]
    assert [sample.get("cls") for sample in samples] == [jpeg(0), jpeg(1), None]


def test_samples_without_an_image_are_exported_without_one(tmp_path):
    path = write_members(tmp_path / "a.tar", [("a.jpg", jpeg(0)), ("a.txt", b"what?"), ("b.txt", b"what?")])
    samples, _ = exported(tmp_path, WebDataset(path=str(path)), statuses=["ok", "bad_sample"], members="all")
    assert [fields(sample) for sample in samples] == [
        {"jpg", "txt", "answers.json", "answers.txt"},
        {"answers.json", "answers.txt"},
    ]


MEMBER = st.tuples(
    st.sampled_from(["a", "a.x", "b", "d/a"]), st.sampled_from(["jpg", "png", "json", "txt", "cls", "x.npy"])
)


@given(st.lists(MEMBER, max_size=14), st.booleans())
def test_members_follow_the_samples_of_any_tar(names, compressed):
    """Each sample comes back once, and a member of an image's own name is nobody else's."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        for number, (stem, suffix) in enumerate(names):
            add(tar, f"{stem}.{suffix}", f"{number}".encode())
    data = gzip.compress(file.getvalue()) if compressed else file.getvalue()

    def archive():
        return Archive(io.BytesIO(data), len(data), "gzip" if compressed else None)

    samples = [
        item for item in Grouping(archive(), lambda _: Want.ALL).samples() if not isinstance(item, PassedOver)
    ]
    back = list(members_of(archive(), samples))
    assert [sample for sample, _ in back] == samples
    for sample, members in back:
        for suffix, content in members.items():
            stem, own_suffix = names[int(content)]
            assert f"{stem}.{own_suffix}".endswith(suffix.removeprefix("group."))
            assert stem.partition(".")[0] == sample.key.partition(".")[0]
    copied = {int(content) for _, members in back for content in members.values()}
    images = {stem.partition(".")[0] for stem, suffix in names if suffix in ("jpg", "png")}
    if len({stem.partition(".")[0] for stem, _ in names}) == 1 and images and len(set(names)) == len(names):
        others = {number for number, (_, suffix) in enumerate(names) if suffix not in ("jpg", "png")}
        assert copied == others
