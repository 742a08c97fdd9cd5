"""Test that several processes can make the same cache folder at the same time."""

import multiprocessing
import os
import shutil
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline.support.cache import cached, make_once, private_cache
from pipeline.support.errors import ConfigError

PROCESSES, FILES = 4, 50


def _make(folder, barrier, results):
    def make(target):
        barrier.wait()  # until all processes are making the folder
        for number in range(FILES):
            (target / f"{number}.txt").write_text(str(os.getpid()))
            time.sleep(0.001)

    folder_made = make_once(folder, make)
    results.put((os.getpid(), sorted(file.name for file in folder_made.iterdir())))


def test_processes_that_make_a_folder_at_once_leave_one_complete_folder(tmp_path):
    context = multiprocessing.get_context("spawn")
    barrier, results = context.Barrier(PROCESSES), context.Queue()
    folder = tmp_path / "cache" / "made"
    processes = [context.Process(target=_make, args=(folder, barrier, results)) for _ in range(PROCESSES)]
    for process in processes:
        process.start()
    names_by_process = dict(results.get(timeout=300) for _ in processes)
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    assert len(names_by_process) == PROCESSES
    assert {len(names) for names in names_by_process.values()} == {FILES}
    (writer,) = {file.read_text() for file in folder.iterdir()}
    assert int(writer) in names_by_process
    assert [path.name for path in folder.parent.iterdir()] == ["made"], "no temporary folder is left"


def test_a_folder_that_exists_is_not_made_again(tmp_path):
    make_once(tmp_path / "made", lambda target: (target / "a").touch())
    make_once(tmp_path / "made", lambda target: pytest.fail("made again"))
    assert [file.name for file in (tmp_path / "made").iterdir()] == ["a"]


def test_a_folder_that_fails_does_not_appear(tmp_path):
    def fail(target):
        (target / "a").touch()
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        make_once(tmp_path / "made", fail)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "trimline"


def fill(target):
    (target / "sub").mkdir()
    (target / "sub" / "a").write_text("right")
    (target / "large").write_bytes(bytes(20 << 20))
    (target / "link").symlink_to("/etc/hostname")
    (target / "sub" / "a").chmod(0o666)


def test_a_folder_of_the_cache_is_closed_to_others(cache):
    cache.mkdir(mode=0o777)
    cache.chmod(0o777)
    folder = cached("made", fill)
    assert stat.S_IMODE(cache.stat().st_mode) == 0o700
    assert stat.S_IMODE((folder / "sub" / "a").stat().st_mode) == 0o644
    assert sorted(entry.name for entry in folder.iterdir()) == ["large", "link", "sub"]
    assert cached("made", lambda target: pytest.fail("made again")) == folder


DAMAGES = {
    "changed": lambda folder: (folder / "sub" / "a").write_text("wrong"),
    "removed": lambda folder: (folder / "sub" / "a").unlink(),
    "added": lambda folder: (folder / "sub" / "b").touch(),
    "cut off": lambda folder: os.truncate(folder / "large", 3),
    "a large file changed": lambda folder: (folder / "large").write_bytes(b"x" * (20 << 20)),
    "a link elsewhere": lambda folder: [(folder / "link").unlink(), (folder / "link").symlink_to("/etc")],
    "a link for a file": lambda folder: (
        (folder / "sub" / "a").rename(folder / "b") and (folder / "sub" / "a").symlink_to(folder / "b")
    ),
    "open to others": lambda folder: (folder / "sub" / "a").chmod(0o666),
    "a FIFO": lambda folder: [(folder / "sub" / "a").unlink(), os.mkfifo(folder / "sub" / "a")],
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_folder_is_made_again_and_told(cache, caplog, damage):
    folder = cached("made", fill)
    DAMAGES[damage](folder)
    assert cached("made", fill) == folder and (folder / "sub" / "a").read_text() == "right"
    assert [record.getMessage() for record in caplog.records] == [f"{folder} was damaged, and is made again"]
    assert sorted(entry.name for entry in cache.iterdir()) == [".records", "made"]


@pytest.mark.parametrize("record", ["kept", "lost", "damaged"])
def test_what_is_made_again_keeps_the_times_of_equal_files(cache, record):
    """A plan knows the files of `demo:pictures` by size and time."""
    folder = cached("made", fill)
    assert {path.stat().st_mtime_ns for path in (folder / "sub" / "a", folder / "large")} == {0}
    os.utime(folder / "large", ns=(7, 7))
    shutil.rmtree(cache / ".records")
    cached("made", fill)  # as of an earlier release, which wrote no record
    assert (folder / "large").stat().st_mtime_ns == 7
    (folder / "sub" / "a").unlink()
    if record == "lost":
        shutil.rmtree(cache / ".records")
    if record == "damaged":
        (cache / ".records" / "made.json").write_text("[1]")
    cached("made", fill)
    assert (folder / "large").stat().st_mtime_ns == 7 and (folder / "sub" / "a").stat().st_mtime_ns == 0


def test_a_folder_of_an_earlier_release_is_made_again(cache, caplog):
    (cache / "made").mkdir(parents=True)
    (cache / "made" / "sub").mkdir()
    folder = cached("made", fill)
    assert (folder / "sub" / "a").read_text() == "right" and not caplog.records


def test_the_cache_of_another_user_is_refused(cache, tmp_path):
    if os.geteuid() != 0:
        pytest.skip("only root can give a folder away")
    (tmp_path / "theirs").mkdir()
    cache.symlink_to(tmp_path / "theirs")
    os.chown(cache, 65534, -1, follow_symlinks=False)
    with pytest.raises(ConfigError, match="belongs to another user; name a place of your own"):
        cached("made", fill)
    cache.unlink()
    cache.mkdir()
    planted = cached("made", fill)
    os.chown(planted / "sub" / "a", 65534, -1)
    assert cached("made", fill) == planted and (planted / "sub" / "a").stat().st_uid == 0
    os.chown(cache, 65534, -1)
    with pytest.raises(ConfigError, match="belongs to another user"):
        cached("made", fill)


def test_a_place_that_cannot_be_written_is_one_line(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(ConfigError, match="cannot be made or closed to others"):
        cached("made", fill)


def test_a_link_to_a_folder_open_to_others_is_refused_and_left_as_it_is(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o755)
    (tmp_path / "trimline").symlink_to(shared)
    with pytest.raises(ConfigError, match="is a link to a folder open to others"):
        private_cache()
    assert stat.S_IMODE(shared.stat().st_mode) == 0o755
    shared.chmod(0o700)
    assert private_cache() == tmp_path / "trimline"


def test_a_record_that_cannot_be_written_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    (private_cache() / ".records").write_text("")
    with pytest.raises(ConfigError, match="cannot be written"):
        cached("x-v1", lambda folder: (folder / "a").write_text("x"))


COMPILING = """
import os, sys
from pipeline.support.cache import use_private_compiler_cache
use_private_compiler_cache()
import pipeline.models.llava
from torch._inductor.codecache import cache_dir
print(cache_dir(), os.listdir(os.environ["TMPDIR"]))
"""


@pytest.mark.parametrize("home", ["cache", "file"])
def test_what_torch_compiles_is_closed_to_others(tmp_path, home):
    for name in ("tmp", "cache"):
        (tmp_path / name).mkdir()
    (tmp_path / "file").touch()
    own = {"XDG_CACHE_HOME": str(tmp_path / home), "TMPDIR": str(tmp_path / "tmp")}
    environment = {name: value for name, value in os.environ.items() if name != "TORCHINDUCTOR_CACHE_DIR"}
    said = subprocess.run(
        [sys.executable, "-c", COMPILING], env=environment | own, capture_output=True, text=True, check=True
    ).stdout
    place = tmp_path / "cache/trimline/torchinductor" if home == "cache" else tmp_path / "tmp/trimline-torch-"
    assert said.startswith(str(place)) and "torchinductor_" not in said
    assert list((tmp_path / "tmp").iterdir()) == []


def test_without_a_home_a_cache_must_be_named(monkeypatch):
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", lambda: (_ for _ in ()).throw(RuntimeError("none")))
    with pytest.raises(ConfigError, match="no home folder for a cache; name a place with XDG_CACHE_HOME"):
        cached("made", fill)
