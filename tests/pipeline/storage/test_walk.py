"""Test listings of folders with links, pipes and odd names: they end, count everything and stay inside."""

import os
import socket
import stat
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.sources.base import Want, files_of
from pipeline.sources.images import Images
from pipeline.sources.items import samples_of
from pipeline.storage.listing import File, ListingRules, list_entries
from pipeline.storage.uris import Storage
from pipeline.support.census import Census, PassedOver, Reason
from pipeline.support.errors import ConfigError

HERE = Storage()
FOLLOWING = ListingRules(follow_links=True)

FOLDERS = st.sampled_from(["", "d", "d/e", "set[1]", "x{a,b}", "é\n"])
NAMES = st.sampled_from(["a.jpg", "b.jpg", "c.txt", ".h.jpg", "k*.jpg", "l", "d", "m.JPG"])
KINDS = st.sampled_from(
    ["file", "fifo", "socket", "up", "self", "dangling", "outside", "outside_file", "etc"]
)


def make(folder: Path, kind: str, outside: Path) -> None:
    """Make one entry at a path that does not exist yet."""
    targets = {
        "up": "..",
        "self": folder.name,
        "dangling": "nowhere",
        "outside": str(outside),
        "outside_file": os.path.relpath(outside / "secret.jpg", folder.parent),
        "etc": "/etc/passwd",
    }
    if kind == "file":
        folder.write_bytes(b"own")
    elif kind == "fifo":
        os.mkfifo(folder)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as server:
            folder_fd = os.open(folder.parent, os.O_RDONLY)
            try:
                server.bind(f"/proc/self/fd/{folder_fd}/{folder.name}")
            finally:
                os.close(folder_fd)
    else:
        folder.symlink_to(targets[kind])


def entries_of(root: Path) -> set[str]:
    """List everything below a folder that is no folder, without following links."""
    return {
        os.path.relpath(Path(folder) / name, root)
        for folder, folders, files in os.walk(root)
        for name in [*files, *(name for name in folders if (Path(folder) / name).is_symlink())]
    }


@settings(max_examples=80)
@given(st.lists(st.tuples(FOLDERS, NAMES, KINDS), max_size=12), st.booleans())
def test_a_listing_ends_counts_everything_and_reads_nothing_outside(entries, follow_links):
    with tempfile.TemporaryDirectory() as folder:
        root, outside = Path(folder, "root"), Path(folder, "outside")
        outside.mkdir()
        (outside / "secret.jpg").write_bytes(b"SECRET")
        (outside / "pipe").symlink_to("fifo.jpg")
        os.mkfifo(outside / "fifo.jpg")
        root.mkdir()
        for place, name, kind in [("", "z.jpg", "file"), *entries]:
            path = root / place / name
            if not os.path.lexists(path) and not any(
                up.is_symlink() or (up.exists() and not up.is_dir()) for up in path.parents
            ):
                path.parent.mkdir(parents=True, exist_ok=True)
                make(path, kind, outside)
        listed = list(list_entries(str(root), HERE, ListingRules(follow_links=follow_links)))
        names = [
            entry.uri.removeprefix(f"file://{root}/") if isinstance(entry, File) else entry.name.rstrip("/")
            for entry in listed
        ]
        assert len(names) == len(set(names))
        if not follow_links:
            assert set(names) == entries_of(root), "everything is taken or passed over, once"
            for entry in listed:
                if isinstance(entry, File):
                    assert stat.S_ISREG(os.lstat(entry.uri.removeprefix("file://")).st_mode)
        source = Images(path=str(root), follow_links=follow_links)
        census = Census()
        taken = list(files_of(source, HERE, census))
        assert len(taken) + census.passed_over.total() == len(listed)
        for shard in source.shards(taken, HERE):
            samples = list(samples_of(source, shard, HERE, lambda _: Want.ALL))
            assert all(sample.fault is None for sample in samples)
            if not follow_links:
                assert all(sample.image == b"own" for sample in samples)


def test_links_are_passed_over_and_counted(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/x.jpg").write_bytes(b"x")
    root = tmp_path / "root"
    root.mkdir()
    (root / "a.jpg").write_bytes(b"a")
    (root / "b.jpg").symlink_to(root / "a.jpg")
    (root / "folder").symlink_to(tmp_path / "out")
    (root / "gone.jpg").symlink_to("nothing")
    (root / "loop.jpg").symlink_to("loop.jpg")
    assert [entry for entry in list_entries(str(root), HERE) if isinstance(entry, PassedOver)] == [
        PassedOver("b.jpg", Reason.LINK),
        PassedOver("folder", Reason.LINK),
        PassedOver("gone.jpg", Reason.DANGLING),
        PassedOver("loop.jpg", Reason.DANGLING),
    ]
    followed = [entry.uri for entry in list_entries(str(root), HERE, FOLLOWING) if isinstance(entry, File)]
    assert followed == [f"file://{root}/{name}" for name in ("a.jpg", "b.jpg", "folder/x.jpg")]
    assert "source.follow_links=true" in Reason.LINK


@pytest.mark.parametrize("steps", [3, 38, 60])
def test_a_ladder_of_links_ends(tmp_path, steps):
    for step in range(steps + 1):
        (tmp_path / f"l{step:02d}").mkdir()
        (tmp_path / f"l{step:02d}" / "x.jpg").write_bytes(b"")
    for step in range(steps):
        for name in "ab":
            (tmp_path / f"l{step:02d}" / name).symlink_to(f"../l{step + 1:02d}")
    entries = list(list_entries(str(tmp_path / "l00"), HERE, FOLLOWING))
    files = [entry for entry in entries if isinstance(entry, File)]
    assert len(files) == min(steps, 40) + 1, "each folder once; the system follows 40 links"
    reasons = {entry.reason for entry in entries if isinstance(entry, PassedOver)}
    assert reasons == {Reason.LISTED_ELSEWHERE} | ({Reason.TOO_MANY_LINKS} if steps > 40 else set())
    assert len(entries) <= 3 * steps + 2


def test_a_link_into_the_listed_folder_is_passed_over_whatever_it_is_called(tmp_path):
    (tmp_path / "m").mkdir()
    (tmp_path / "m/x.jpg").write_bytes(b"")
    for name in ("a", "z"):
        (tmp_path / name).symlink_to("m")
    (tmp_path / "m/up").symlink_to("..")
    entries = list(list_entries(str(tmp_path), HERE, FOLLOWING))
    assert [entry.uri.rpartition("/")[2] for entry in entries if isinstance(entry, File)] == ["x.jpg"]
    assert {entry.name for entry in entries if isinstance(entry, PassedOver)} == {"a/", "m/up/", "z/"}


def test_deep_folders_are_listed(tmp_path):
    folders = [tmp_path / "/".join("d" * depth) for depth in range(1, 1200)]  # deeper than Python recurses
    for folder in folders:
        folder.mkdir()
    (folders[-1] / "x.jpg").write_bytes(b"")
    assert len(list(list_entries(str(tmp_path), HERE))) == 1
    (folders[-1] / "x.jpg").unlink()
    for folder in reversed(folders):
        folder.rmdir()


def test_a_source_that_is_no_file_is_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe.tar")
    with pytest.raises(ConfigError, match=r"source\.path: .*neither a file nor a folder"):
        list(list_entries(str(tmp_path / "pipe.tar"), HERE))


def test_globs_over_links(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "root/sub").mkdir(parents=True)
    for name in ("real/1.tar", "root/sub/2.tar", "root/3.txt"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "root/linked").symlink_to("../real")
    pattern = f"{tmp_path}/root/*/*.tar"
    linked, own = list_entries(pattern, HERE)
    assert linked == PassedOver("linked", Reason.LINK)
    assert isinstance(own, File) and own.uri.endswith("/2.tar")
    assert [str(entry.uri).rpartition("/")[2] for entry in list_entries(pattern, HERE, FOLLOWING)] == [
        "1.tar",
        "2.tar",
    ]
    (tmp_path / "named").symlink_to("real")
    assert len(list(list_entries(f"{tmp_path}/named/*.tar", HERE))) == 1, "the folder is the user's own word"
    with pytest.raises(ConfigError, match=r"source\.path: .*\*\*"):
        list(list_entries(f"{tmp_path}/a**b/*.tar", HERE))


@pytest.mark.parametrize("pattern", ["*/*.jpg", "l*/*.jpg", "[l]*/x/*.jpg", "**/*.jpg", "r/*/*.jpg"])
def test_links_to_folders_that_a_glob_would_enter_are_told(tmp_path, pattern):
    for name in ("r/a.jpg", "r/x/b.jpg", "other/c.jpg"):
        (tmp_path / "d" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "d" / name).write_bytes(b"")
    (tmp_path / "d/lnk").symlink_to("r")
    (tmp_path / "d/r/lnk").symlink_to("x")
    (tmp_path / "d/lfile").symlink_to("r/a.jpg")
    (tmp_path / "d/ldangling").symlink_to("nowhere")
    wanted = {"r/*/*.jpg": {"lnk"}, "**/*.jpg": {"lnk", "r/lnk"}}.get(pattern, {"lnk"})
    passed_over = {
        entry.name: entry.reason
        for entry in list_entries(f"{tmp_path}/d/{pattern}", HERE)
        if isinstance(entry, PassedOver)
    }
    assert passed_over == dict.fromkeys(wanted, Reason.LINK)


def test_a_glob_that_only_links_match_names_the_setting(tmp_path):
    (tmp_path / "r").mkdir()
    (tmp_path / "r/a.jpg").write_bytes(b"")
    (tmp_path / "lnk").symlink_to("r")
    with pytest.raises(ConfigError, match=r"no image .*link \(source\.follow_links=true.*lnk"):
        list(Images(path=f"{tmp_path}/ln*/*.jpg").entries(HERE))
    followed = files_of(Images(path=f"{tmp_path}/ln*/*.jpg", follow_links=True), HERE)
    assert [file.uri for file in followed] == [f"file://{tmp_path}/lnk/a.jpg"]
