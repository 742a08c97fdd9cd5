"""With deep=true, every difference between an output and its source is named."""

import json
import os
import shutil
import tarfile

import pytest

from pipeline.output.manifest import RULES
from pipeline.sources.images import Images
from pipeline.sources.jsonl import Jsonl
from pipeline.sources.webdataset import WebDataset
from pipeline.support.errors import ConfigError
from pipeline.verify.verify import Moved
from tests.pipeline.verify.test_consistent import FIRST, LAST, SECOND, edit
from tests.support.quick import quick_answer
from tests.support.tars import jpeg, write_members, write_tar


@pytest.fixture
def workplace(tmp_path):
    """Three images with two questions each, answered in units of two."""
    (tmp_path / "in").mkdir()
    for index in range(3):
        (tmp_path / "in" / f"{index}.jpg").write_bytes(jpeg(index, 24))
        (tmp_path / "in" / f"{index}.json").write_text('{"questions": ["who?", "why?"]}')
    quick_answer(Images(path=str(tmp_path / "in")), tmp_path / "out", unit_samples=2)
    return tmp_path


def forge(file, text):
    """Replace a file's content but keep its size and time."""
    stat = file.stat()
    assert len(text) <= stat.st_size
    file.write_text(text.ljust(stat.st_size))
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def test_rows_are_proved_against_the_source(finished, workplace, check):
    output = finished.folder / "out"
    for folder, rows in ((output, 18), (workplace / "out", 6)):
        findings, result = check(folder, deep=True)
        assert (findings, result.notes, result.rows) == ({}, [], rows)
        assert list(result.lines())[-1].endswith("consistent, and proved against the source")


@pytest.mark.parametrize(
    ("sidecar", "message"),
    [
        ('{"questions": ["who?"]}', "the rows hold 000000-00000001-0001 ('why?'), the source does not ask"),
        (
            '{"questions": ["a", "b", "c"]}',
            "000000-00000001-0000 has the question 'who?' where the source has 'a'",
        ),
        ('{"questions": ["who?", "wh?"]}', "-0001 has the question 'why?' where the source has 'wh?'"),
        ('{"questions": []}', "has the question 'who?' where the source has ''"),
        ('{"questions": 7}', "has the question 'who?' where the source has ''"),
    ],
)
def test_an_edited_sidecar_of_the_same_size_and_time(workplace, check, sidecar, message):
    forge(workplace / "in" / "1.json", sidecar)
    assert check(workplace / "out")[1].ok, "it is consistent by itself"
    findings, _ = check(workplace / "out", deep=True)
    assert findings.keys() == {("changed", f"data/{FIRST}")}
    assert message in findings[("changed", f"data/{FIRST}")]


def test_what_was_passed_over_is_proved_too(tmp_path, check):
    """A member that is now hidden, in a tar of the same size and time, changes no row but the census."""
    members = [("0.jpg", jpeg(0, 24)), ("notes", b"n"), *((f"{i}.jpg", jpeg(i, 24)) for i in (1, 2))]
    tar = write_members(tmp_path / "a.tar", members)
    stat = tar.stat()
    quick_answer(WebDataset(path=str(tar)), tmp_path / "out", unit_samples=2)
    assert check(tmp_path / "out", deep=True)[0] == {}
    write_members(tar, [(".notes" if name == "notes" else name, data) for name, data in members])
    os.utime(tar, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    (text,) = check(tmp_path / "out", deep=True)[0].values()
    assert text == (
        "the source has 3 images, 0 sidecars, 1 passed over as hidden or temporary where the files have "
        "3 images, 0 sidecars, 1 passed over as type that is not read"
    )


def test_a_question_that_no_row_answers(tmp_path, check):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "0.jpg").write_bytes(jpeg(0, 24))
    (tmp_path / "in" / "0.json").write_text('{"questions": ["who?"]}            ')
    quick_answer(Images(path=str(tmp_path / "in")), tmp_path / "out")
    forge(tmp_path / "in" / "0.json", '{"questions": ["who?", "why?"]}')
    (text,) = check(tmp_path / "out", deep=True)[0].values()
    assert text == "the source asks 000000-00000000-0001 ('why?'), the rows do not"


def test_rows_that_differ_from_the_source(output, check):
    for column, value in (("sample_key", "x"), ("question_id", "q"), ("question", "eh?")):
        edit(output / "data" / SECOND, lambda rows, change={column: value}: [rows[0] | change, *rows[1:]])
        (text,) = (text for (kind, _), text in check(output, deep=True)[0].items() if kind == "changed")
        assert f"the {column} {value!r} where the source has " in text


def test_changed_deleted_and_new_files_of_the_source(tmp_path, check):
    for seed in range(4):
        write_tar(tmp_path / "tars" / f"{seed}.tar", 2, seed=seed, width=24)
    quick_answer(WebDataset(path=str(tmp_path / "tars")), tmp_path / "out")
    (tmp_path / "tars" / "1.tar").unlink()
    os.utime(tmp_path / "tars" / "2.tar")
    write_tar(tmp_path / "tars" / "9.tar", 1)
    findings, result = check(tmp_path / "out", deep=True)
    uri = f"file://{tmp_path}/tars"
    assert findings.keys() == {("changed", f"{uri}/1.tar"), ("changed", f"{uri}/2.tar")}
    assert [finding.shard for finding in result.findings] == [1, 2]
    assert result.notes == [f"1 files of the source are not in the plan: {uri}/9.tar"]


@pytest.mark.parametrize("rules", [1, 2])
def test_rows_that_another_release_made_otherwise_are_told_as_such(tmp_path, check, rules):
    quick_answer(WebDataset(path=str(write_tar(tmp_path / "0.tar", 2, width=24))), tmp_path / "out")
    run = json.loads((tmp_path / "out" / "run.json").read_text())
    (tmp_path / "out" / "run.json").write_text(
        json.dumps({**run, "counted": {**run["counted"], RULES: rules}})
    )
    with tarfile.open(tmp_path / "0.tar") as tar:
        names = [(member.name, tar.extractfile(member).read()) for member in tar]
    stat = (tmp_path / "0.tar").stat()
    changed = [(name, data.replace(b"what", b"then")) for name, data in names]
    write_members(tmp_path / "0.tar", changed)
    os.utime(tmp_path / "0.tar", ns=(stat.st_atime_ns, stat.st_mtime_ns))
    findings, result = check(tmp_path / "out", deep=True)
    assert {kind for kind, _ in findings} == {"changed"}
    assert any("by other rules" in note for note in result.notes) == (rules == 1)


def cut(path, size):
    """Overwrite the end of a tar but keep its size and time."""
    stat, data = path.stat(), path.read_bytes()
    path.write_bytes(data[:size] + b"\xaa" * (len(data) - size))
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def test_a_tar_that_breaks_off_by_now(tmp_path, check):
    path = write_tar(tmp_path / "tars" / "0.tar", 6, width=24)
    quick_answer(WebDataset(path=str(path)), tmp_path / "out", unit_samples=2)
    with tarfile.open(path) as tar:
        offset = tar.getmember("000/000004.jpg").offset
    cut(path, offset)
    findings, _ = check(tmp_path / "out", deep=True)
    assert findings.keys() == {("changed", f"data/{LAST}")}
    assert "the rows hold 000000-00000004-0000" in findings[("changed", f"data/{LAST}")]
    assert "; the source breaks off: the tar breaks off at byte" in findings[("changed", f"data/{LAST}")]


def test_a_tar_that_broke_off_then_and_now(tmp_path, check):
    path = write_tar(tmp_path / "0.tar", 6, width=24)
    whole = path.read_bytes()
    with tarfile.open(path) as tar:
        offset = tar.getmember("000/000004.jpg").offset
    cut(path, offset)
    quick_answer(WebDataset(path=str(path)), tmp_path / "out", unit_samples=3)
    findings, result = check(tmp_path / "out", deep=True)
    assert findings == {} and result.ok
    assert result.notes[0].startswith(f"not read whole: shard 0 ({path.as_uri()}): the tar breaks off")
    stat = path.stat()
    path.write_bytes(whole)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    (text,) = check(tmp_path / "out", deep=True)[0].values()
    assert text == "the source goes on with sample 4"


def test_a_source_that_has_moved(workplace, check):
    shutil.move(workplace / "in", workplace / "elsewhere")
    with pytest.raises(ConfigError, match=r"source\.path: nothing at file:///.*/in"):
        check(workplace / "out", deep=True)
    assert check(workplace / "out", deep=True, source=Moved(path=str(workplace / "elsewhere")))[0] == {}


def test_slices_of_a_jsonl_and_missing_images(tmp_path, check):
    lines = [{"question_id": i, "image": f"{i // 2}.jpg", "text": f"what {i}?"} for i in range(9)]
    (tmp_path / "q.jsonl").write_text("".join(json.dumps(line) + "\n" for line in [*lines, {}, {"image": 7}]))
    (tmp_path / "1.jpg").write_bytes(jpeg(1, 24))
    source = Jsonl(path=str(tmp_path / "q.jsonl"), slice_files=4)
    quick_answer(source, tmp_path / "out", unit_samples=2)
    findings, result = check(tmp_path / "out", deep=True)
    assert (findings, result.rows, result.shards) == ({}, 11, 3)


def test_a_missing_unit_does_not_hide_its_neighbours(output, check):
    (output / "data" / FIRST).unlink()
    edit(output / "data" / LAST, lambda rows: [{**row, "question": "eh?"} for row in rows])
    findings, _ = check(output, deep=True)
    assert [file for kind, file in findings if kind == "changed"] == [f"data/{LAST}"]
