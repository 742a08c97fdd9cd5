"""Test the plan: written once, read back, extended at its end, compared with the source's present files."""

import os
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.output.changed import file_now, require_same, require_unchanged
from pipeline.output.plan import load_plan
from pipeline.output.plan_growth import extend_plan, make_plan
from pipeline.output.units import Finished, Unit
from pipeline.sources.base import Want, files_of
from pipeline.sources.images import Images
from pipeline.sources.jsonl import Jsonl
from pipeline.sources.parquet import Parquet
from pipeline.sources.webdataset import WebDataset
from pipeline.storage.listing import file_at
from pipeline.storage.uris import Storage, canonical
from pipeline.support.errors import ConfigError, RunError
from tests.support.s3 import BUCKET
from tests.support.tars import jpeg, write_tar

HERE = Storage()


@pytest.fixture
def tars(tmp_path) -> WebDataset:
    """Write tars of 3, 1, 4 and 2 samples."""
    for seed, samples in enumerate((3, 1, 4, 2)):
        write_tar(tmp_path / "tars" / f"{seed}.tar", samples, seed=seed, width=24)
    return WebDataset(path=str(tmp_path / "tars"))


@pytest.fixture
def pictures(tmp_path) -> Images:
    """Write seven images in three folders, one with a sidecar, in slices of three."""
    for index, name in enumerate(["a/0", "a/1", "a/2", "b/3", "b/4", "c/5", "c/6"]):
        file = tmp_path / "pictures" / f"{name}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(jpeg(index, 24))
    (tmp_path / "pictures" / "a" / "1.txt").write_text("What is this?")
    return Images(path=str(tmp_path / "pictures"), slice_files=3)


def out(tmp_path: Path) -> str:
    return canonical(str(tmp_path / "out"), HERE)


def finished(*shards: int) -> Finished:
    return Finished(Unit(shard, 0, 1, True).file_name for shard in shards)


def change_file(file: Path, change: str) -> None:
    stat = file.stat()
    if change == "gone":
        file.unlink()
    elif change == "time":
        os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    else:
        file.write_bytes(file.read_bytes() + b"\0")
        os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def test_no_plan_yet(tmp_path):
    assert load_plan(out(tmp_path), HERE) is None


def test_a_plan_of_tars_is_read_back(tmp_path, tars):
    plan = make_plan(out(tmp_path), tars, None, HERE)
    assert plan.source == f"file://{tmp_path}/tars"
    assert len(plan) == 4
    shards = list(tars.shards(files_of(tars, HERE), HERE))
    assert [plan.shard(ordinal, HERE) for ordinal in range(4)] == shards == list(plan.shards(HERE))
    assert [shard.uri for shard in shards] == [f"file://{tmp_path}/tars/{name}.tar" for name in range(4)]
    for shard in shards:
        stat = Path(shard.uri.removeprefix("file://")).stat()
        assert (shard.size, int(shard.etag, 16)) == (stat.st_size, stat.st_mtime_ns)
        assert plan.size(shard.shard) == stat.st_size
    loaded = load_plan(out(tmp_path), HERE)
    assert loaded.table.equals(plan.table) and loaded.parts == plan.parts == ("000000.parquet",)


def test_a_plan_of_slices_is_read_back_with_its_files(tmp_path, pictures):
    plan = make_plan(out(tmp_path), pictures, None, HERE)
    shards = [plan.shard(ordinal, HERE) for ordinal in range(3)]
    assert shards == list(pictures.shards(files_of(pictures, HERE), HERE)) == list(plan.shards(HERE))
    assert [shard.samples for shard in shards] == [3, 3, 1]
    names = [[file.uri.rpartition("/")[2] for file in shard.files] for shard in shards]
    assert names == [["0.jpg", "1.jpg", "1.txt", "2.jpg"], ["3.jpg", "4.jpg", "5.jpg"], ["6.jpg"]]
    assert len({shard.etag for shard in shards}) == 3
    assert all(shard.size == sum(file.size for file in shard.files) for shard in shards)
    assert "files" not in plan.table.column_names, "the driver does not keep the files in memory"
    samples = [sample for shard in shards for sample in pictures.samples(shard, HERE, lambda _: Want.ALL)]
    assert [sample.key for sample in samples] == [
        *("a/0.jpg", "a/1.jpg", "a/2.jpg", "b/3.jpg", "b/4.jpg", "c/5.jpg", "c/6.jpg")
    ]


@pytest.mark.parametrize("path", ["pictures", "./pictures/", "a/../pictures", "pictures/**/*.jpg"])
def test_the_keys_do_not_depend_on_how_the_path_is_written(tmp_path, monkeypatch, pictures, path):
    monkeypatch.chdir(tmp_path)
    source = Images(path=path)
    (shard,) = make_plan(out(tmp_path), source, None, HERE).shards(HERE)
    keys = [sample.key for sample in source.samples(shard, HERE, lambda _: Want.ALL)]
    assert keys[0] == "a/0.jpg" and len(keys) == 7


@pytest.mark.parametrize(
    ("limit", "expected"),
    [
        (1, [1]),
        (2, [2]),
        (3, [None]),
        (4, [None, None]),
        (5, [None, None, 1]),
        (8, [None, None, None]),
        (9, [None, None, None, 1]),
        (10, [None] * 4),
        (99, [None] * 4),
    ],
)
def test_a_limit_is_resolved_across_tars(tmp_path, tars, limit, expected):
    plan = make_plan(out(tmp_path), tars, limit, HERE)
    limits = [shard.samples for shard in plan.shards(HERE)]
    assert limits == expected
    counts = (3, 1, 4, 2)
    total = sum(
        count if shard_limit is None else shard_limit
        for shard_limit, count in zip(limits, counts, strict=False)
    )
    assert total == min(limit, 10)


@pytest.mark.parametrize(
    ("limit", "expected"), [(2, [2]), (3, [3]), (4, [3, 1]), (7, [3, 3, 1]), (9, [3, 3, 1])]
)
def test_a_limit_is_resolved_across_slices(tmp_path, pictures, limit, expected):
    plan = make_plan(out(tmp_path), pictures, limit, HERE)
    assert [shard.samples for shard in plan.shards(HERE)] == expected


def test_a_limit_after_an_unreadable_tar(tmp_path, tars):
    Path(tars.path, "1.tar").write_bytes(b"no tar " * 100)
    plan = make_plan(out(tmp_path), tars, 5, HERE)
    assert [shard.samples for shard in plan.shards(HERE)] == [None, 2], "the run counts its samples"


def test_an_empty_source_writes_no_plan(tmp_path):
    (tmp_path / "empty").mkdir()
    for source in (WebDataset(path=str(tmp_path / "empty")), Images(path=str(tmp_path / "empty"))):
        with pytest.raises(ConfigError, match=r"source\.path"):
            make_plan(out(tmp_path), source, None, HERE)
    assert load_plan(out(tmp_path), HERE) is None


def test_extending_appends_new_shards(tmp_path, tars):
    plan = make_plan(out(tmp_path), tars, None, HERE)
    shards_before = list(plan.shards(HERE))
    assert extend_plan(plan, tars, HERE) == plan, "nothing is new"
    for name in ("00.tar", "9.tar"):  # one of them sorts before the known tars
        write_tar(Path(tars.path) / name, 1, seed=7)
    grown = extend_plan(plan, tars, HERE)
    shards = list(grown.shards(HERE))
    assert shards[:4] == shards_before, "a shard keeps its number"
    assert [(shard.shard, shard.uri.rpartition("/")[2]) for shard in shards[4:]] == [
        (4, "00.tar"),
        (5, "9.tar"),
    ]
    assert grown.parts == ("000000.parquet", "000004.parquet")
    write_tar(Path(tars.path) / "a.tar", 1, seed=8)
    grown_twice = extend_plan(load_plan(out(tmp_path), HERE), tars, HERE)
    assert [shard.shard for shard in grown_twice.shards(HERE)] == list(range(7))
    assert grown_twice.shard(6, HERE).uri.endswith("/a.tar")
    assert grown_twice.shard(4, HERE) == shards[4] and grown_twice.shard(0, HERE) == shards_before[0]
    assert grown_twice.source == plan.source


def test_extending_slices(tmp_path, pictures):
    plan = make_plan(out(tmp_path), pictures, None, HERE)
    for index in range(4):
        (Path(pictures.path) / "a" / f"new{index}.jpg").write_bytes(jpeg(50 + index, 24))
    grown = extend_plan(plan, pictures, HERE)
    assert [shard.samples for shard in grown.shards(HERE)] == [3, 3, 1, 3, 1]
    assert [shard.shard for shard in grown.shards(HERE)] == list(range(5))
    assert [file.uri.rpartition("/")[2] for file in grown.shard(4, HERE).files] == ["new3.jpg"]
    assert len({shard.uri for shard in grown.shards(HERE)}) == 5, "slices have different names"


def test_a_new_sidecar_of_a_known_picture_is_no_new_sample(tmp_path, pictures):
    plan = make_plan(out(tmp_path), pictures, None, HERE)
    (known,) = (file for file in plan.shard(0, HERE).files[:1])
    Path(known.uri.removeprefix("file://")).with_suffix(".json").write_text("{}")
    assert extend_plan(plan, pictures, HERE) == plan


@pytest.fixture(params=["tars", "jsonl", "parquet", "images"])
def growing(request, tmp_path, tars, pictures):
    """Make a source of each kind, and name its file that grows; the JSONL has several slices."""
    if request.param == "tars":
        return tars, Path(tars.path) / "1.tar"
    if request.param == "images":
        return pictures, Path(pictures.path) / "a" / "1.txt"
    folder = tmp_path / "tables"
    folder.mkdir()
    for name in ("a", "b"):
        (folder / f"{name}.jsonl").write_text('{"image": "x.jpg", "text": "?"}\n{"image": "y.jpg"}\n')
        pq.write_table(pa.table({"image": [b""]}), folder / f"{name}.parquet")
    kind = {"jsonl": Jsonl(path=str(folder), slice_files=1), "parquet": Parquet(path=str(folder))}
    return kind[request.param], folder / f"b.{request.param}"


@pytest.mark.parametrize("change", ["size", "time"])
def test_extending_refuses_a_changed_file_by_name(tmp_path, growing, change):
    source, file = growing
    plan = make_plan(out(tmp_path), source, None, HERE)
    assert extend_plan(plan, source, HERE) == plan
    change_file(file, change)
    shutil.copy(file, file.with_name(f"0new{file.suffix}"))  # a new file does not hide the change
    expected = rf"^file://{file} has changed .*extend=true takes new files only"
    with pytest.raises(ConfigError, match=expected) as refusal:
        extend_plan(plan, source, HERE)
    assert "\n" not in str(refusal.value)
    assert load_plan(out(tmp_path), HERE).parts == plan.parts, "nothing is appended"


def test_extending_ignores_missing_files(tmp_path, tars):
    plan = make_plan(out(tmp_path), tars, None, HERE)
    change_file(Path(tars.path) / "1.tar", "gone")
    assert extend_plan(plan, tars, HERE) == plan


@pytest.mark.parametrize("change", ["size", "time", "gone"])
def test_a_changed_tar_is_refused_by_name(tmp_path, tars, change):
    plan = make_plan(out(tmp_path), tars, None, HERE)
    require_unchanged(plan, finished().has_shard, tars, HERE)
    change_file(Path(tars.path) / "2.tar", change)
    with pytest.raises(ConfigError, match=rf"shard 2 has changed or is gone .*: file://{tars.path}/2\.tar;"):
        require_unchanged(plan, finished(0).has_shard, tars, HERE)
    require_unchanged(plan, finished(2).has_shard, tars, HERE)  # a finished shard does not need its source


@pytest.mark.parametrize("change", ["size", "time", "gone"])
@pytest.mark.parametrize("name", ["a/1.jpg", "a/1.txt"])
def test_a_changed_file_of_a_slice_is_refused_by_name(tmp_path, pictures, change, name):
    plan = make_plan(out(tmp_path), pictures, None, HERE)
    require_unchanged(plan, finished().has_shard, pictures, HERE)
    change_file(Path(pictures.path) / name, change)
    with pytest.raises(
        ConfigError, match=f"shard 0 has changed or is gone .*: file://{pictures.path}/{name};"
    ):
        require_unchanged(plan, finished(1, 2).has_shard, pictures, HERE)
    require_unchanged(plan, finished(0).has_shard, pictures, HERE)


class EarlierImages(Images):
    """Lists what 0.1.0 listed: hidden files, and files of outputs, too."""

    def entries(self, storage):
        fs, root = storage.open(str(self.path))
        for path in sorted(fs.find(root)):
            yield file_at(fs.unstrip_protocol(path), storage)


UNLISTED = [".h/c.jpg", "._a.jpg", "a/.hid*.jpg", "_temporary/x[1].jpg", "done/y.jpg"]


@pytest.mark.parametrize("place", ["local", "s3"])
def test_files_that_are_no_longer_listed_have_not_changed(tmp_path, s3, place):
    storage = s3 if place == "s3" else HERE
    root = f"s3://{BUCKET}/unlisted" if place == "s3" else str(tmp_path / "in")
    fs, path = storage.open(root)
    for index, name in enumerate(["a/0.jpg", *UNLISTED]):
        fs.makedirs(f"{path}/{name}".rpartition("/")[0], exist_ok=True)
        fs.pipe_file(f"{path}/{name}", jpeg(index, 24))
    plan = make_plan(out(tmp_path), EarlierImages(path=root), None, storage)
    fs.pipe_file(f"{path}/done/run.json", b'{"fingerprint": "", "run_id": ""}')
    now = Images(path=root)
    assert [file.uri for file in files_of(now, storage)] == [canonical(f"{root}/a/0.jpg", storage)]
    require_unchanged(plan, finished().has_shard, now, storage)
    for name in ("a/.hid*.jpg", ".h/c.jpg"):
        fs.pipe_file(f"{path}/{name}", b"another")
        fs.pipe_file(f"{path}/a/.hidden.jpg", b"what a pattern would find")
        with pytest.raises(ConfigError, match=rf"has changed or is gone .*{re.escape(name)};"):
            require_unchanged(plan, finished().has_shard, now, storage)
        fs.rm_file(f"{path}/{name}")
        with pytest.raises(ConfigError, match=rf"has changed or is gone .*{re.escape(name)};"):
            require_unchanged(plan, finished().has_shard, now, storage)


@pytest.mark.parametrize("through", ["root", "folder", "file"])
def test_a_file_over_a_link_is_unchanged_only_if_links_are_followed(tmp_path, through):
    (tmp_path / "real/h").mkdir(parents=True)
    (tmp_path / "real/.h.jpg").write_bytes(b"x")
    (tmp_path / "real/h/.h.jpg").write_bytes(b"x")
    (tmp_path / "in").symlink_to("real")
    (tmp_path / "real/.folder").symlink_to("h")
    (tmp_path / "real/.file.jpg").symlink_to("h/.h.jpg")
    name = {"root": ".h.jpg", "folder": ".folder/.h.jpg", "file": ".file.jpg"}[through]
    uri = f"file://{tmp_path}/in/{name}"
    for follow_links in (False, True):
        source = Images(path=str(tmp_path / "in"), follow_links=follow_links)
        found = file_now(source, uri, HERE)
        assert (found == file_at(uri, HERE)) == (follow_links or through == "root")
        assert found is None or found.uri == uri


def test_a_new_tar_is_not_a_change(tmp_path, tars):
    plan = make_plan(out(tmp_path), tars, None, HERE)
    write_tar(Path(tars.path) / "9.tar", 1)
    require_unchanged(plan, finished().has_shard, tars, HERE)


def calls(function: Callable[[], object]) -> int:
    """Count the calls of functions, Python's and C's, that one call makes: its cost, on any machine."""
    count = 0

    def called(_frame: object, event: str, _argument: object) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(called)
    try:
        function()
    finally:
        sys.setprofile(None)
    return count


def costs_of_a_plan(folder: Path, shards: int) -> tuple[int, ...]:
    """Count the calls that load a plan, compare it with its source, and extend it."""
    (folder / "tars").mkdir(parents=True)
    for index in range(shards):
        (folder / "tars" / f"{index:05d}.tar").touch()
    source = WebDataset(path=str(folder / "tars"))
    plan = make_plan(out(folder), source, None, HERE)
    assert len(plan) == shards
    assert plan.shard(shards - 1, HERE).uri.endswith(f"/{shards - 1:05d}.tar")
    assert extend_plan(plan, source, HERE) == plan
    return (
        calls(lambda: load_plan(out(folder), HERE)),
        calls(lambda: require_unchanged(plan, finished().has_shard, source, HERE)),
        calls(lambda: extend_plan(plan, source, HERE)),
    )


def test_the_cost_of_a_plan_grows_with_its_shards(tmp_path):
    small, large = (costs_of_a_plan(tmp_path / f"{shards}", shards) for shards in (200, 2_000))
    assert all(after < before * 12 for before, after in zip(small, large, strict=True)), (small, large)


@pytest.mark.parametrize("change", ["size", "time", "gone"])
def test_a_tar_that_changes_during_the_run_is_refused_at_reading(tmp_path, tars, change):
    shard = make_plan(out(tmp_path), tars, None, HERE).shard(2, HERE)
    require_same(shard, HERE)
    change_file(Path(tars.path) / "2.tar", change)
    with pytest.raises((RunError, ConfigError), match=r"2\.tar"):
        require_same(shard, HERE)


@pytest.mark.parametrize("named", ["tars", "tars/*.tar", "tars/0.tar"])
def test_a_tar_on_s3_is_the_same_however_it_was_listed(tmp_path, s3, named):
    fs, root = s3.open(f"s3://{BUCKET}/same")
    fs.put_file(str(write_tar(tmp_path / "0.tar", 2)), f"{root}/tars/0.tar")
    source = WebDataset(path=f"s3://{root}/{named}")
    for shard in make_plan(out(tmp_path), source, None, s3).shards(s3):
        require_same(shard, s3)
