"""Images that are files of their own, read ahead from a store: in order, within bounds, fault by fault."""

import json
import random
import threading
import time

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.output.units import UnitLimits
from pipeline.sources.base import AHEAD, Sample
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
FAR = "memory://far"  # any store but the local disk


def sample(index):
    return Sample(str(index), index)


def threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("read_")]


# --- the helper ---


def test_samples_come_in_order_from_no_more_threads_than_allowed():
    lock, pauses = threading.Lock(), random.Random(0)
    running, most_running, asked = 0, 0, 0

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
        nonlocal asked
        for index in range(200):
            asked = index
            pause = pauses.random() / 100
            yield lambda most, index=index, pause=pause: read(index, pause)

    for index, found in enumerate(read_ahead(reads(), FAR, HERE)):
        assert found == sample(index)
        assert asked < index + AHEAD, "no further ahead"
    assert index == 199 and 1 < most_running <= AHEAD
    assert not threads()


def test_nothing_queues_behind_what_is_at_hand():
    given = []

    def items():
        for index in range(40):
            if index % 10 in (3, 4):
                yield None if index % 10 == 3 else sample(index)
                assert len(given) == index + 1, "all before it and itself are through"
            else:
                yield lambda most, index=index: sample(index)

    for found in read_ahead(items(), FAR, HERE):
        given.append(found)
    assert given == [None if index % 10 == 3 else sample(index) for index in range(40)]


def test_what_is_large_is_read_when_its_turn_comes():
    calls, given = [], []

    def read(index, most):
        calls.append((index, most))
        if index % 3 == 0 and most is not None:
            return None
        assert most is None or index % 3
        if most is None:
            assert len(given) == index, "not ahead of its turn"
        return sample(index)

    reads = (lambda most, index=index: read(index, most) for index in range(30))
    for found in read_ahead(reads, FAR, HERE):
        given.append(found)
    assert given == list(map(sample, range(30)))
    assert sorted(index for index, most in calls if most is None) == list(range(0, 30, 3))
    assert {most for _, most in calls} == {AHEAD_BYTES, None}


def test_an_outage_is_raised_in_its_place_and_the_rest_is_let_go():
    started = []

    def read(index):
        started.append(index)
        time.sleep(0.01)
        if index == 5:
            raise ConnectionError("gone")
        return sample(index)

    found = []
    with pytest.raises(ConnectionError, match="gone"):
        for some in read_ahead((lambda _, index=index: read(index) for index in range(1000)), FAR, HERE):
            found.append(some)
    assert found == list(map(sample, range(5)))
    assert len(started) < 5 + 2 * AHEAD and not threads()


def test_who_stops_early_leaves_no_thread_behind():
    started = []

    def read(index):
        started.append(index)
        time.sleep(0.01)
        return sample(index)

    samples = read_ahead((lambda _, index=index: read(index) for index in range(1000)), FAR, HERE)
    assert next(samples) == sample(0)
    samples.close()
    assert not threads()
    seen = len(started)
    time.sleep(0.05)
    assert len(started) == seen <= AHEAD


# --- the sources ---

COUNT = 50


def lay_out(put):
    """Images of very different sizes, and a JSONL and a Parquet file that name them."""
    for index in range(COUNT):
        put(f"{index:02d}.jpg", jpeg(index, 16 + 40 * (index % 3)))
    names = [f"{index:02d}.jpg" for index in range(COUNT)]
    put("q.jsonl", "".join(json.dumps({"image": name, "text": "?"}) + "\n" for name in names).encode())
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"image_path": names}), sink, row_group_size=20)
    put("p.parquet", sink.getvalue().to_pybytes())


def sources(root):
    return [Images(path=root), Jsonl(path=f"{root}/q.jsonl"), Parquet(path=f"{root}/p.parquet")]


@pytest.fixture(scope="module", params=[0, 1, 2], ids=["images", "jsonl", "parquet"])
def near_and_far(request, s3, tmp_path_factory):
    """The same source on the local disk and in a store."""
    near = tmp_path_factory.mktemp("near")
    fs, root = s3.open(f"s3://{BUCKET}/ahead")
    lay_out(lambda name, data: ((near / name).write_bytes(data), fs.pipe_file(f"{root}/{name}", data)))
    return sources(str(near))[request.param], sources(f"s3://{root}")[request.param]


def units_of(source, storage, finished=None):
    (shard,) = source.shards(source.entries(storage), storage)
    limits = UnitLimits(unit_bytes=8 * len(jpeg(0, 96)))
    task = Task(prompts=["Describe."])
    tables = read_shard(source, shard, storage=storage, task=task, limits=limits, finished=finished or {})
    rows = [unpack_unit(table) for table in tables]
    return [(row.unit, row.tables["samples"].to_pylist()) for row in rows]


def test_a_store_gives_the_units_that_the_disk_gives(near_and_far, s3):
    near, far = near_and_far
    units = units_of(far, s3)
    assert units == units_of(near, HERE)
    assert len({unit.stop - unit.first for unit, _ in units}) > 1, "their bytes close them"
    assert [line["image"] for _, lines in units for line in lines] == [
        jpeg(index, 16 + 40 * (index % 3)) for index in range(COUNT)
    ]


@pytest.mark.parametrize("missing", [[0], [2], [1, 2], [0, 3], [-1]])
def test_a_rerun_makes_just_the_missing_units(near_and_far, s3, missing):
    _, far = near_and_far
    whole = units_of(far, s3)
    wanted = [whole[index] for index in missing]
    finished = {unit.first: unit.stop for unit, _ in whole if unit not in [some for some, _ in wanted]}
    assert units_of(far, s3, finished) == wanted


@pytest.mark.parametrize("width", [4, 300])
def test_units_never_overlap_though_an_image_has_changed(tmp_path, width):
    """No plan holds the images that a JSONL names: one may change, and with it where its unit ends."""
    lay_out(lambda name, data: (tmp_path / name).write_bytes(data))
    _, source, _ = sources(str(tmp_path))
    whole = [unit for unit, _ in units_of(source, HERE)]
    finished = {unit.first: unit.stop for unit in whole[1::2]}
    (tmp_path / "00.jpg").write_bytes(jpeg(0, width))
    again = {unit.first: unit.stop for unit, _ in units_of(source, HERE, finished)}
    position = 0
    while position < COUNT:
        assert (position in again) != (position in finished)
        position = (again | finished)[position]
    assert position == COUNT


def test_a_fault_of_one_image_is_no_other_ones(s3):
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
    (shard,) = source.shards(source.entries(s3), s3)
    found = list(source.samples(shard, s3, lambda _: True))
    assert [some.key for some in found] == names
    assert {some.key: some.image for some in found if some.fault is None and some.key in fine} == fine
    # SeaweedFS answers a null character like a range of nothing
    assert {some.key for some in found if some.fault} | {"a\0b.jpg"} == set(odd)


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
def test_names_that_are_no_image_below_the_root(tmp_path, name, fault):
    (tmp_path / "a.jpg").write_bytes(b"abc")
    with pytest.raises(fault, match=r"^((?!pass).)*$"):
        read_image(str(tmp_path), name, HERE, None)
    for fine in ("a.jpg", "./a.jpg", f"{tmp_path}/a.jpg", f"file://{tmp_path}/a.jpg"):
        assert read_image(str(tmp_path), fine, HERE, None) == b"abc"
        assert read_image(f"{tmp_path}/x/..", fine, HERE, 2) is None
