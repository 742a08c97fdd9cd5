"""Test reading image files ahead from a store: in order, bounded, with each fault at its own sample."""

import json
import random
import threading
import time

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.output.units import UnitLimits
from pipeline.sources.base import AHEAD, Sample, Want, files_of
from pipeline.sources.images import Images
from pipeline.sources.jsonl import Jsonl
from pipeline.sources.parquet import Parquet
from pipeline.sources.read_ahead import AHEAD_BYTES, read_ahead, read_image
from pipeline.sources.task import Task
from pipeline.stages.read import read_shard
from pipeline.stages.rows import unpack_unit
from pipeline.storage.uris import Storage
from pipeline.support.errors import BadImage, BadSample
from tests.support.s3 import BUCKET
from tests.support.tars import jpeg

HERE = Storage()
FAR = "memory://far"  # any store except the local disk


def sample(index):
    return Sample(str(index), index)


def threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("read_")]


# --- read_ahead ---


def test_samples_come_in_order_from_a_bounded_number_of_threads():
    lock, pauses = threading.Lock(), random.Random(0)
    running, most_running, requested = 0, 0, 0

    def read(index, pause):
        nonlocal running, most_running
        with lock:
            running += 1
            most_running = max(most_running, running)
        time.sleep(pause)
        with lock:
            running -= 1
        return sample(index)

    def reads():
        nonlocal requested
        for index in range(200):
            requested = index
            pause = pauses.random() / 100
            yield lambda most, index=index, pause=pause: read(index, pause)

    for index, received in enumerate(read_ahead(reads(), FAR, HERE)):
        assert received == sample(index)
        assert requested < index + AHEAD, "at most AHEAD reads ahead"
    assert index == 199 and 1 < most_running <= AHEAD
    assert not threads()


def test_samples_without_a_read_pass_without_waiting_for_later_reads():
    received = []

    def items():
        for index in range(40):
            if index % 10 in (3, 4):
                yield None if index % 10 == 3 else sample(index)
                assert len(received) == index + 1, "all samples up to this one were yielded"
            else:
                yield lambda most, index=index: sample(index)

    for item in read_ahead(items(), FAR, HERE):
        received.append(item)
    assert received == [None if index % 10 == 3 else sample(index) for index in range(40)]


def test_large_images_are_not_read_ahead():
    calls, received = [], []

    def read(index, most):
        calls.append((index, most))
        if index % 3 == 0 and most is not None:
            return None
        assert most is None or index % 3
        if most is None:
            assert len(received) == index, "a large image is read only when it is next"
        return sample(index)

    reads = (lambda most, index=index: read(index, most) for index in range(30))
    for item in read_ahead(reads, FAR, HERE):
        received.append(item)
    assert received == list(map(sample, range(30)))
    assert sorted(index for index, most in calls if most is None) == list(range(0, 30, 3))
    assert {most for _, most in calls} == {AHEAD_BYTES, None}


def test_an_outage_is_raised_in_order_and_later_reads_are_cancelled():
    started = []

    def read(index):
        started.append(index)
        time.sleep(0.01)
        if index == 5:
            raise ConnectionError("gone")
        return sample(index)

    received = []
    with pytest.raises(ConnectionError, match="gone"):
        for item in read_ahead((lambda _, index=index: read(index) for index in range(1000)), FAR, HERE):
            received.append(item)
    assert received == list(map(sample, range(5)))
    assert len(started) < 5 + 2 * AHEAD and not threads()


def test_a_reader_that_stops_early_leaves_no_thread():
    started = []

    def read(index):
        started.append(index)
        time.sleep(0.01)
        return sample(index)

    samples = read_ahead((lambda _, index=index: read(index) for index in range(1000)), FAR, HERE)
    assert next(samples) == sample(0)
    samples.close()
    assert not threads()
    count = len(started)
    time.sleep(0.05)
    assert len(started) == count <= AHEAD


# --- the sources ---

COUNT = 50


def lay_out(put_file):
    """Write images of very different sizes, and a JSONL and a Parquet file naming them."""
    for index in range(COUNT):
        put_file(f"{index:02d}.jpg", jpeg(index, 16 + 40 * (index % 3)))
    names = [f"{index:02d}.jpg" for index in range(COUNT)]
    put_file("q.jsonl", "".join(json.dumps({"image": name, "text": "?"}) + "\n" for name in names).encode())
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"image_path": names}), sink, row_group_size=20)
    put_file("p.parquet", sink.getvalue().to_pybytes())


def sources(root):
    return [Images(path=root), Jsonl(path=f"{root}/q.jsonl"), Parquet(path=f"{root}/p.parquet")]


@pytest.fixture(scope="module", params=[0, 1, 2], ids=["images", "jsonl", "parquet"])
def disk_and_store(request, s3, tmp_path_factory):
    """Set up the same source on the local disk and in a store."""
    near = tmp_path_factory.mktemp("near")
    fs, root = s3.open(f"s3://{BUCKET}/ahead")
    lay_out(lambda name, data: ((near / name).write_bytes(data), fs.pipe_file(f"{root}/{name}", data)))
    return sources(str(near))[request.param], sources(f"s3://{root}")[request.param]


def units_of(source, storage, finished=None):
    (shard,) = source.shards(files_of(source, storage), storage)
    limits = UnitLimits(unit_bytes=8 * len(jpeg(0, 96)))
    task = Task(prompts=["Describe."])
    tables = read_shard(source, shard, storage=storage, task=task, limits=limits, finished=finished or {})
    rows = [unpack_unit(table) for table in tables]
    return [(row.unit, row.tables["samples"].to_pylist()) for row in rows]


def test_a_store_and_the_disk_give_equal_units(disk_and_store, s3):
    near, far = disk_and_store
    units = units_of(far, s3)
    assert units == units_of(near, HERE)
    assert len({unit.stop - unit.first for unit, _ in units}) > 1, "units close by their bytes"
    assert [line["image"] for _, lines in units for line in lines] == [
        jpeg(index, 16 + 40 * (index % 3)) for index in range(COUNT)
    ]


@pytest.mark.slow
@pytest.mark.parametrize("missing", [[0], [2], [1, 2], [0, 3], [-1]])
def test_a_rerun_reads_only_the_missing_units(disk_and_store, s3, missing):
    _, far = disk_and_store
    all_units = units_of(far, s3)
    expected = [all_units[index] for index in missing]
    finished = {
        unit.first: unit.stop
        for unit, _ in all_units
        if unit not in [missing_unit for missing_unit, _ in expected]
    }
    assert units_of(far, s3, finished) == expected


@pytest.mark.parametrize("width", [4, 300])
def test_units_do_not_overlap_after_an_image_has_changed(tmp_path, width):
    """The plan does not list a JSONL's images, so a changed image may move its unit's end."""
    lay_out(lambda name, data: (tmp_path / name).write_bytes(data))
    _, source, _ = sources(str(tmp_path))
    units = [unit for unit, _ in units_of(source, HERE)]
    finished = {unit.first: unit.stop for unit in units[1::2]}
    (tmp_path / "00.jpg").write_bytes(jpeg(0, width))
    remade = {unit.first: unit.stop for unit, _ in units_of(source, HERE, finished)}
    position = 0
    while position < COUNT:
        assert (position in remade) != (position in finished)
        position = (remade | finished)[position]
    assert position == COUNT


def test_a_faulty_image_affects_no_other_image(s3):
    fs, root = s3.open(f"s3://{BUCKET}/faults")
    for index in range(40):
        fs.pipe_file(f"{root}/{index}.jpg", jpeg(index, 16))
    fs.pipe_file(f"{root}/empty.jpg", b"")
    fs.pipe_file(f"{root}/a::b.jpg", b"colons")
    odd = [
        "none.jpg",
        "../x.jpg",
        "nope://x/y.jpg",
        "http://h/y.jpg",
        ".",
        "a\0b.jpg",
        "é" * 2000,
        "/etc/hostname",
    ]
    fine = {
        "empty.jpg": b"",
        "a::b.jpg": b"colons",
        f"s3a://{root}/1.jpg": jpeg(1, 16),
        "./2.jpg": jpeg(2, 16),
    }
    fine |= {f"{index}.jpg": jpeg(index, 16) for index in range(40)}
    names = [*fine, *odd]
    random.Random(0).shuffle(names)
    lines = "".join(json.dumps({"image": name, "text": "?"}) + "\n" for name in names)
    fs.pipe_file(f"{root}/q.jsonl", lines.encode())
    source = Jsonl(path=f"s3://{root}/q.jsonl")
    (shard,) = source.shards(files_of(source, s3), s3)
    samples_read = list(source.samples(shard, s3, lambda _: Want.ALL))
    assert [sample.key for sample in samples_read] == names
    assert {
        sample.key: sample.image for sample in samples_read if sample.fault is None and sample.key in fine
    } == fine
    # SeaweedFS answers a name with a null character with an empty range, not with an error
    assert {sample.key for sample in samples_read if sample.fault} | {"a\0b.jpg"} == set(odd)


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("x" * 300, BadImage),
        ("a\0b.jpg", BadImage),
        ("\ud800.jpg", BadImage),
        ("a.jpg/under", BadImage),
        ("none.jpg", BadImage),
        ("", BadSample),
        ("./", BadSample),
        ("s/../a.jpg", BadSample),
        ("nope://a.jpg", BadSample),
        ("s3://user:pass@b/a.jpg", BadSample),
        ("/etc/hostname", BadSample),
    ],
)
def test_paths_outside_the_root_and_missing_images_are_faults(tmp_path, name, fault):
    (tmp_path / "a.jpg").write_bytes(b"abc")
    with pytest.raises(fault, match=r"^((?!pass).)*$"):
        read_image(str(tmp_path), name, HERE, None)
    for fine in ("a.jpg", "./a.jpg", f"{tmp_path}/a.jpg", f"file://{tmp_path}/a.jpg"):
        assert read_image(str(tmp_path), fine, HERE, None) == b"abc"
        assert read_image(f"{tmp_path}/x/..", fine, HERE, 2) is None
