"""Test reading: where units end, what a rerun skips, and how a broken shard is reported."""

import json
import tarfile

import pytest

from pipeline.output.units import UnitLimits
from pipeline.sources.base import files_of
from pipeline.sources.images import Images
from pipeline.sources.task import Task
from pipeline.sources.webdataset import WebDataset
from pipeline.stages.read import read_shard
from pipeline.stages.rows import unpack_unit
from pipeline.storage.uris import Storage
from tests.support.tars import add, jpeg, write_members, write_tar

STORAGE = Storage()
VQA = Task(source_questions=True)


def units_of(source, *, finished=None, task=VQA, samples=None, **limits):
    """Read a source's only shard as (unit, samples as rows, trace)."""
    (shard,) = source.shards(files_of(source, STORAGE), STORAGE)
    if samples is not None:
        shard = type(shard)(**{**vars(shard), "samples": samples})
    tables = read_shard(
        source, shard, storage=STORAGE, task=task, limits=UnitLimits(**limits), finished=finished or {}
    )
    rows = [unpack_unit(table) for table in tables]
    return [(row.unit, row.tables["samples"].to_pylist(), row.trace) for row in rows]


def ranges(units):
    return [(unit.first, unit.stop, unit.end) for unit, _, _ in units]


def test_a_unit_closes_at_whichever_limit_comes_first(tmp_path):
    source = WebDataset(path=str(write_tar(tmp_path / "a.tar", 10, questions=3)))
    assert ranges(units_of(source, unit_samples=4)) == [(0, 4, False), (4, 8, False), (8, 10, True)]
    # questions per sample: 1 2 3 1 2 3 1 2 3 1
    assert ranges(units_of(source, unit_requests=5)) == [
        (0, 3, False),
        (3, 6, False),
        (6, 9, False),
        (9, 10, True),
    ]
    sizes = [len(line["image"]) for _, lines, _ in units_of(source) for line in lines]
    by_bytes = ranges(units_of(source, unit_bytes=sum(sizes[:3])))
    assert by_bytes[0] == (0, 3, False)
    assert ranges(units_of(source, unit_samples=5)) == [(0, 5, False), (5, 10, True)], (
        "the last full unit is marked as the end"
    )


def test_samples_are_read_unchanged_and_in_order(tmp_path):
    source = WebDataset(path=str(write_tar(tmp_path / "a.tar", 7, questions=2)))
    lines = [line for _, samples, _ in units_of(source, unit_samples=3) for line in samples]
    assert [line["sample"] for line in lines] == list(range(7))
    assert [line["sample_key"] for line in lines] == [f"000/{index:06d}" for index in range(7)]
    assert [line["image"] for line in lines] == [jpeg(index) for index in range(7)]
    assert lines[1]["questions"] == [
        {"question_id": "q0-1-0", "question": "what is thing 1 of 0, part 0?", "fault": None},
        {"question_id": "q0-1-1", "question": "what is thing 1 of 0, part 1?", "fault": None},
    ]


@pytest.mark.parametrize("missing", [[0], [1], [3], [0, 2], [1, 3], [0, 1, 2, 3]])
def test_a_rerun_reads_only_the_missing_units(tmp_path, missing):
    source = WebDataset(path=str(write_tar(tmp_path / "a.tar", 20)))
    limit = 3 * len(jpeg(0, 100))
    units = units_of(source, unit_bytes=limit)
    assert len({stop - first for first, stop, _ in ranges(units)}) > 1, (
        "the units' ranges must vary, or this test proves little"
    )
    expected = [unit for index, unit in enumerate(units) if index in missing]
    finished = {unit.first: unit.stop for index, (unit, _, _) in enumerate(units) if index not in missing}
    remade = units_of(source, unit_bytes=limit, finished=finished)
    assert [(unit, lines) for unit, lines, _ in remade] == [(unit, lines) for unit, lines, _ in expected]


def test_a_limit_ends_the_shard_early(tmp_path):
    source = WebDataset(path=str(write_tar(tmp_path / "a.tar", 10)))
    assert ranges(units_of(source, unit_samples=4, samples=8)) == [(0, 4, False), (4, 8, True)]
    assert ranges(units_of(source, unit_samples=4, samples=6)) == [(0, 4, False), (4, 6, True)]


def test_an_empty_tar_is_one_empty_unit(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w"):
        pass
    ((unit, lines, trace),) = units_of(WebDataset(path=str(tmp_path / "a.tar")))
    assert (unit.first, unit.stop, unit.end, lines, trace["shard_error"]) == (0, 0, True, [], None)


def broken(tmp_path, change):
    path = write_tar(tmp_path / "a.tar", 10)
    data = bytearray(path.read_bytes())
    with tarfile.open(path) as tar:
        offsets = {member.name: member.offset for member in tar}
    path.write_bytes(change(data, offsets["000/000006.jpg"]))
    return WebDataset(path=str(path))


def test_a_bad_header_is_reported_and_the_samples_before_it_are_read(tmp_path):
    def spoil(data, offset):
        data[offset : offset + 8] = b"\xff" * 8
        return data

    units = units_of(broken(tmp_path, spoil), unit_samples=4)
    assert ranges(units) == [(0, 4, False), (4, 6, True)]
    assert "bad header" in units[-1][2]["shard_error"]


@pytest.mark.parametrize("cut", [0, 100, 512, 600, 1000])
def test_a_truncated_tar_is_reported(tmp_path, cut):
    units = units_of(broken(tmp_path, lambda data, offset: data[: offset + cut]), unit_samples=4)
    assert units[-1][0].end
    assert units[-1][2]["shard_error"]
    lines = [line for _, samples, _ in units for line in samples]
    assert [line["status"] for line in lines[:6]] == ["ok"] * 6
    # the sample that was cut is a row only if some of its data remains
    assert [line["status"] for line in lines[6:]] in ([], ["bad_sample"])


def test_a_file_that_is_no_tar_is_one_empty_unit_with_an_error(tmp_path):
    (tmp_path / "a.tar").write_bytes(b"this is no tar " * 100)
    ((unit, lines, trace),) = units_of(WebDataset(path=str(tmp_path / "a.tar")))
    assert (unit.first, unit.stop, unit.end, lines) == (0, 0, True, [])
    assert trace["shard_error"]


def test_a_finished_broken_shard_is_not_read_again(tmp_path):
    def spoil(data, offset):
        data[offset : offset + 8] = b"\xff" * 8
        return data

    source = broken(tmp_path, spoil)
    finished = {unit.first: unit.stop for unit, _, _ in units_of(source, unit_samples=4)}
    assert units_of(source, unit_samples=4, finished=finished) == []


def sample(tmp_path, members, task=VQA):
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for name, data in members:
            add(tar, name, data)
        add(tar, "last.jpg", jpeg(1))
        add(tar, "last.json", b'{"question": "and?"}')
    ((_, lines, _),) = units_of(WebDataset(path=str(tmp_path / "a.tar")), task=task, max_questions=5)
    assert lines[-1]["status"] == "ok", "the neighbour is untouched"
    return lines[:-1]


ASK = b'{"question": "what?"}'


@pytest.mark.parametrize(
    ("members", "status", "error"),
    [
        ([("a.json", ASK)], "bad_sample", "no image"),
        ([("a.jpg", jpeg(0)), ("a.png", jpeg(0)), ("a.json", ASK)], "bad_sample", "2 images"),
        ([("a.jpg", jpeg(0)), ("a.json", b"{")], "bad_sample", "not JSON"),
        ([("a.jpg", jpeg(0)), ("a.json", b"[1]")], "bad_sample", "not an object"),
        ([("a.jpg", jpeg(0)), ("a.json", b'{"questions": 7}')], "bad_sample", "not a list"),
        (
            [("a.jpg", jpeg(0)), ("a.json", b'{"questions": [{"question": 7}]}')],
            "bad_sample",
            "text `question`",
        ),
        ([("a.jpg", jpeg(0)), ("a.json", b"{}")], "bad_question", "no question"),
        ([("a.jpg", jpeg(0))], "bad_question", "no question"),
        ([("a.jpg", jpeg(0)), ("a.txt", b"\xff\xfe\xfd")], "bad_question", "neither UTF-8"),
        (
            [("a.jpg", jpeg(0)), ("a.json", json.dumps({"questions": ["q"] * 6}).encode())],
            "bad_sample",
            "more than max_questions",
        ),
    ],
)
def test_a_faulty_sample_is_one_row_with_its_reason(tmp_path, members, status, error):
    (line,) = sample(tmp_path, members)
    assert line["status"] == status
    assert error in line["error"]


def test_questions_may_come_as_text_or_lists(tmp_path):
    lines = sample(
        tmp_path,
        [
            ("a.jpg", jpeg(0)),
            ("a.txt", b" what? \n"),
            ("b.jpg", jpeg(0)),
            ("b.json", b'{"questions": ["x?", {"question_id": 7, "question": "y?"}]}'),
            ("c.jpg", jpeg(0)),
            ("c.json", b'{"question": "\\ud800 lone", "question_id": "n"}'),
        ],
    )
    assert [line["status"] for line in lines] == ["ok"] * 3
    questions = [[(item["question_id"], item["question"]) for item in line["questions"]] for line in lines]
    assert questions == [[("0", "what?")], [("0", "x?"), ("7", "y?")], [("n", "? lone")]]


def test_the_task_selects_the_questions(tmp_path):
    members = [("a.jpg", jpeg(0)), ("a.json", ASK)]
    task = Task(prompts=["Describe."], source_questions=True, suffix="\nShort.")
    (line,) = sample(tmp_path, members, task=task)
    assert [item["question"] for item in line["questions"]] == ["Describe.", "what?\nShort."]
    (line,) = sample(tmp_path, members, task=Task(prompts=["Describe."]))
    assert [item["question"] for item in line["questions"]] == ["Describe."]


def test_adjacent_samples_with_equal_keys_are_two_samples(tmp_path):
    lines = sample(tmp_path, [("a.jpg", jpeg(0)), ("a.json", ASK), ("a.jpg", jpeg(2)), ("a.json", ASK)])
    assert [line["sample_key"] for line in lines] == ["a", "a"]
    assert [line["image"] for line in lines] == [jpeg(0), jpeg(2)]


def test_a_folder_of_images_is_read_in_the_order_of_its_paths(tmp_path):
    for name in ("b.jpg", "a/z.png", "a.jpg", "a-1.webp", "sub/deep/x.JPG", "notes.md"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(jpeg(0))
    (tmp_path / "b.json").write_bytes(ASK)
    (tmp_path / "a.txt").write_text("who?")
    task = Task(prompts=["Describe."], source_questions=True)
    ((_, lines, _),) = units_of(Images(path=str(tmp_path)), task=task)
    keys = [line["sample_key"] for line in lines]
    assert keys == sorted(keys) == ["a-1.webp", "a.jpg", "a/z.png", "b.jpg", "sub/deep/x.JPG"]
    assert [[item["question"] for item in line["questions"]][1:] for line in lines] == [
        [],
        ["who?"],
        [],
        ["what?"],
        [],
    ]


def test_slices_of_a_folder_are_shards(tmp_path):
    for index in range(7):
        (tmp_path / f"{index}.jpg").write_bytes(jpeg(index))
        (tmp_path / f"{index}.txt").write_text("who?")
    source = Images(path=str(tmp_path), slice_files=3)
    shards = list(source.shards(files_of(source, STORAGE), STORAGE))
    assert [shard.samples for shard in shards] == [3, 3, 1]
    assert [len(shard.files) for shard in shards] == [6, 6, 2]
    assert len({shard.etag for shard in shards}) == 3


def number(value):
    """Encode a tar header's number field, also for negative and huge numbers."""
    return b"\x80" + value.to_bytes(11, "big") if value >= 0 else (256**12 + value).to_bytes(12, "big")


def with_header(tmp_path, kind, size, content=b""):
    """Write a sound sample, a header that declares `size`, and another sound sample."""
    path = write_members(tmp_path / "a.tar", [("a.jpg", jpeg(0)), ("a.json", ASK)])
    sound = path.read_bytes().rstrip(b"\0")
    sound += bytes(-len(sound) % 512)
    info = tarfile.TarInfo("b.jpg")
    info.type = kind
    header = bytearray(info.tobuf(tarfile.USTAR_FORMAT))
    header[124:136] = number(size)
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    path.write_bytes(sound + bytes(header) + content + bytes(-len(content) % 512) + sound + bytes(1024))
    return WebDataset(path=str(path))


@pytest.mark.timeout(120)
@pytest.mark.parametrize("kind", [tarfile.REGTYPE, tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME], ids=repr)
@pytest.mark.parametrize("size", [-512, -(1 << 40), 1 << 33, 1 << 62, 1 << 80])
def test_a_header_with_an_impossible_size_ends_only_the_tar(tmp_path, kind, size):
    """tarfile would loop forever, allocate gigabytes, or raise an unrelated error."""
    units = units_of(with_header(tmp_path, kind, size))
    lines = [line for _, samples, _ in units for line in samples]
    assert [line["status"] for line in lines[:1]] == ["ok"] and len(lines) <= 2
    assert units[-1][2]["shard_error"]


@pytest.mark.parametrize(
    "records", [b"22 GNU.sparse.major=1\n22 GNU.sparse.minor=0\n", b"19 GNU.sparse.map=x\n", b"10 size=x\n"]
)
def test_a_contradictory_extended_header_keeps_the_samples_before_it(tmp_path, records):
    units = units_of(with_header(tmp_path, tarfile.XHDTYPE, len(records), records))
    assert units[0][1][0]["status"] == "ok"
    assert all(unit.end is (place == len(units) - 1) for place, (unit, _, _) in enumerate(units))


def test_a_sparse_member_is_not_inflated(tmp_path):
    """The archive of 2 KB declares 200 MB of zeros."""
    header = bytearray(tarfile.TarInfo("b.jpg").tobuf(tarfile.GNU_FORMAT))
    header[156:157] = tarfile.GNUTYPE_SPARSE
    header[386:410] = b"%011o\0" % 0 + b"%011o\0" % 0
    header[483:495] = b"%011o\0" % (200 << 20)
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    (tmp_path / "a.tar").write_bytes(bytes(header) + bytes(1024))
    ((_, (line,), trace),) = units_of(WebDataset(path=str(tmp_path / "a.tar")))
    assert (line["status"], trace["shard_error"]) == ("bad_sample", None)
    assert "sparse" in line["error"]


def test_an_error_is_one_short_line_for_any_member_name(tmp_path):
    name = "a\nb" * 1000 + ".jpg"
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        info = tarfile.TarInfo(name)
        info.type = tarfile.SYMTYPE
        tar.addfile(info)
    ((_, (line,), _),) = units_of(WebDataset(path=str(tmp_path / "a.tar")))
    assert "\n" not in line["error"] and len(line["error"]) <= 500


def test_rows_hold_no_credentials(tmp_path, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "CANARY-0123456789")
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        info = tarfile.TarInfo("CANARY-0123456789.jpg")
        info.type = tarfile.SYMTYPE
        tar.addfile(info)
    ((_, (line,), _),) = units_of(WebDataset(path=str(tmp_path / "a.tar")))
    assert "CANARY" not in line["error"] and "***" in line["error"]


def test_unreadable_questions_are_bad_samples(tmp_path):
    sidecars = [
        {"question": "x" * (2 << 20)},
        {"question": "?", "question_id": [1]},
        {"questions": [""] * 20_000},
        {"question": "x", "question_id": "n" * (2 << 20)},
    ]
    for sidecar, reason in zip(
        sidecars, ("too long", "question_id", "more than 10000", "too long"), strict=True
    ):
        (line,) = sample(tmp_path, [("a.jpg", jpeg(0)), ("a.json", json.dumps(sidecar).encode())])
        assert line["status"] == "bad_sample" and reason in line["error"]
