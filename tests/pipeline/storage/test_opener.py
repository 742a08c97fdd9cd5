"""Test what is opened of a local disk: regular files, below the folder of the source."""

import os
import socket
import threading
from pathlib import Path

import pytest

from pipeline.sources.base import Shard, Want, files_of
from pipeline.sources.images import Images
from pipeline.sources.jsonl import Jsonl
from pipeline.sources.parquet import Parquet
from pipeline.sources.read_ahead import read_image
from pipeline.sources.webdataset import WebDataset
from pipeline.storage.opener import LinkRefusedError, RefusedFileError, read_local
from pipeline.storage.uris import Storage
from pipeline.support.errors import BadImage, BadSample, ShardError

HERE = Storage()


@pytest.fixture
def root(tmp_path):
    """Make a folder with a file, links of all kinds, a pipe, a socket and a folder."""
    folder = tmp_path / "root"
    (folder / "sub").mkdir(parents=True)
    (tmp_path / "outside").mkdir()
    for name in ("root/a", "root/sub/b", "outside/c"):
        (tmp_path / name).write_bytes(b"12345")
    for name, target in {
        "inner": "a",
        "outer": "../outside/c",
        "folder": "../outside",
        "absolute": "/proc/self/environ",
        "gone": "nothing",
        "loop": "loop",
        "to_pipe": "pipe",
        "to_zero": "/dev/zero",
    }.items():
        (folder / name).symlink_to(target)
    os.mkfifo(folder / "pipe")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(folder / "socket"))
    return folder


def read(root, name, **options):
    return read_local(f"{root}/{name}", str(root), 100, **{"follow_links": False, **options})


def test_regular_files_are_read_up_to_a_limit(root):
    assert read(root, "a") == read(root, "sub/b") == b"12345"
    assert read_local(f"{root}/a", str(root), 3, follow_links=False) == b"1234"
    assert read_local(f"{root}/inner", f"{root}/inner", 9, follow_links=False) == b"12345", "the user's word"
    linked = root.parent / "linked"
    linked.symlink_to(root)
    assert read(linked, "sub/b") == b"12345"
    with pytest.raises(RefusedFileError, match="not below"):
        read_local(f"{root}/a", f"{root}/sub", 9, follow_links=False)


@pytest.mark.parametrize(
    "name", ["inner", "outer", "folder/c", "absolute", "gone", "loop", "to_pipe", "to_zero"]
)
def test_links_are_refused_by_the_name_of_the_setting(root, name):
    with pytest.raises(LinkRefusedError, match=r"source\.follow_links=true"):
        read(root, name)
    with pytest.raises(BadSample, match=r"source\.follow_links=true"):
        read_image(str(root), name, HERE, None)


@pytest.mark.parametrize(("name", "what"), [("pipe", "FIFO"), ("socket", "socket"), ("sub", "folder")])
@pytest.mark.parametrize("follow_links", [False, True])
def test_what_is_no_regular_file_is_refused_and_does_not_hang(root, name, what, follow_links):
    with pytest.raises(RefusedFileError, match=what):
        read(root, name, follow_links=follow_links)
    with pytest.raises(BadImage, match=what):
        read_image(str(root), name, HERE, None, follow_links=follow_links)


def test_followed_links_lead_to_regular_files_alone(root):
    assert read(root, "folder/c", follow_links=True) == read(root, "inner", follow_links=True) == b"12345"
    for name, what in {
        "to_pipe": "FIFO",
        "to_zero": "device",
        "absolute": "more bytes than its size",
    }.items():
        with pytest.raises(RefusedFileError, match=what):
            read(root, name, follow_links=True)
    for name in ("gone", "loop"):
        with pytest.raises(OSError, match=r"loop|gone"):
            read(root, name, follow_links=True)


def test_no_descriptor_is_left_open(root):
    def used() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    before, threads = used(), threading.active_count()
    for _ in range(20):
        for name in ("a", "sub/b", "inner", "folder/c", "pipe", "none", "sub/none/x"):
            try:
                read(root, name)
            except OSError:
                continue
    if threading.active_count() == threads:
        assert used() == before


@pytest.mark.parametrize("kind", [WebDataset, Parquet, Jsonl])
def test_a_shard_behind_a_link_is_a_shard_error(tmp_path, kind):
    root = tmp_path / "root"
    root.mkdir()
    (tmp_path / "x.jsonl").write_text('{"image": "a.jpg"}\n')
    (root / "x.jsonl").symlink_to("../x.jsonl")
    shard = Shard(0, f"file://{root}/x.jsonl#0-10" if kind is Jsonl else f"file://{root}/x.jsonl", 10, "")
    if kind is Jsonl:
        (file,) = files_of(Jsonl(path=str(root / "x.jsonl")), HERE)
        shard = Shard(0, shard.uri, 10, "", files=(file,))
    with pytest.raises(ShardError, match=r"source\.follow_links=true"):
        list(kind(path=str(root)).samples(shard, HERE, lambda _: Want.ALL))
    for pipe in ("y.tar", "y.parquet"):
        os.mkfifo(root / pipe)
        with pytest.raises(ShardError, match="FIFO"):
            list(
                WebDataset(path=str(root)).samples(
                    Shard(0, f"file://{root}/{pipe}", 1, ""), HERE, lambda _: Want.ALL
                )
            )


def test_a_sidecar_behind_a_link_never_becomes_a_question(tmp_path):
    for name in "xyz":
        (tmp_path / f"{name}.jpg").write_bytes(b"image")
    (tmp_path / "x.txt").symlink_to("/etc/passwd")
    (tmp_path / "y.txt").symlink_to("/proc/self/environ")
    for follow_links in (False, True):
        source = Images(path=str(tmp_path), follow_links=follow_links)
        samples = [
            sample
            for shard in source.shards(files_of(source, HERE), HERE)
            for sample in source.samples(shard, HERE, lambda _: Want.ALL)
        ]
        assert len(samples) == 3
        texts = [question.text for sample in samples for question in sample.questions]
        assert not any("PATH=" in text for text in texts)
        assert any("root:" in text for text in texts) == follow_links
        faults = [sample.fault or sample.question_fault for sample in samples]
        assert [fault is not None for fault in faults] == [False, follow_links, False]


def test_a_jsonl_with_a_pipe_among_its_images(tmp_path):
    Path(tmp_path / "a.jpg").write_bytes(b"image")
    os.mkfifo(tmp_path / "b.jpg")
    lines = "".join(f'{{"image": "{name}", "text": "?"}}\n' for name in ("a.jpg", "b.jpg", "a.jpg"))
    (tmp_path / "q.jsonl").write_text(lines)
    source = Jsonl(path=str(tmp_path / "q.jsonl"))
    (shard,) = source.shards(files_of(source, HERE), HERE)
    faults = [sample.fault for sample in source.samples(shard, HERE, lambda _: Want.ALL)]
    assert [type(fault) for fault in faults] == [type(None), BadImage, type(None)]
