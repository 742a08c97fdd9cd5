"""Test that a local cluster is closed to other machines and users, and leaves nothing, however a run ends."""

import contextlib
import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline.run.cluster import private, sweeper
from pipeline.support.errors import ConfigError
from tests.support.commands import TRIMLINE
from tests.support.processes import WITHOUT_RAY, finish, listening, members, start

LOOPBACK = {"0100007F", "0000000000000000FFFF00000100007F", "00000000000000000000000001000000"}
pytestmark = pytest.mark.timeout(600)


@pytest.fixture
def place():
    """Make a folder for Ray's own: short enough for its sockets."""
    import tempfile

    with tempfile.TemporaryDirectory(dir="/tmp", prefix="t-") as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@pytest.fixture
def run(place, tmp_path):
    """Start a run of many small units; it is waited for and killed at the end."""
    from tests.support.tars import write_tar

    (tmp_path / "in").mkdir()
    write_tar(tmp_path / "in" / "0.tar", 20)
    command = [
        *(
            TRIMLINE,
            "annotate",
            "source=webdataset",
            f"source.path={tmp_path}/in",
            f"output={tmp_path}/out",
            "unit_samples=1",
        ),
        *("model=random", "device=cpu", "decoding.max_new_tokens=2"),
    ]
    return start(command, tmp_path, **WITHOUT_RAY | {"RAY_TMPDIR": str(place)})


def until(condition, seconds=200.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "the moment did not come"
        time.sleep(0.1)


def has_written(tmp_path, run):
    def written():
        assert run.poll() is None, run.communicate()
        return any((tmp_path / "out" / "data").glob("*.parquet"))

    return written


def open_below(folder: Path) -> set[int]:
    return sweeper._writers(folder)


@pytest.mark.slow
def test_nothing_of_a_run_is_open_to_others_and_nothing_is_left(run, place, tmp_path):
    until(has_written(tmp_path, run))
    processes = {*members(run.pid)} | open_below(place)
    addresses = {address for process in processes for address, _ in listening(process)}
    assert addresses and addresses <= LOOPBACK
    (home,) = place.iterdir()
    assert stat.S_IMODE(home.stat().st_mode) == 0o700
    assert finish(run).returncode == 0
    assert not any(place.iterdir()) and not open_below(place)


# What another user of the machine may try; each attempt that works is printed.
ATTEMPTS = """
import contextlib, os, pwd, sys
from ray._raylet import GcsClient
home, port, *processes = sys.argv[1:]
shared = [f"/dev/shm/{name}" for name in os.listdir("/dev/shm") if os.stat(f"/dev/shm/{name}").st_uid == 0]
nobody = pwd.getpwnam("nobody")
os.setgroups([])
os.setgid(nobody.pw_gid)
os.setuid(nobody.pw_uid)
def attempt(name, act):
    with contextlib.suppress(Exception):
        print(name, act(), flush=True)
attempt("listed", lambda: os.listdir(home))
attempt("planted", lambda: open(home + "/r/gcs_server_port", "w"))
attempt("replaced", lambda: os.rename(home, home + "2"))
for process in processes:
    attempt("environment", lambda: open(f"/proc/{process}/environ").read())
    attempt("memory", lambda: open(f"/proc/{process}/mem", "rb"))
    attempt("opened", lambda: os.listdir(f"/proc/{process}/fd"))
    attempt("signalled", lambda: os.kill(int(process), 0))
for file in shared:
    attempt("shared memory", lambda: open(file, "rb"))
attempt("called", lambda: GcsClient(f"127.0.0.1:{port}").internal_kv_keys(b"", b"fun", 10) and "")
print("tried")
"""


CLUSTER = """
import pipeline.run.cluster.start as start
from pipeline.run.cluster.resources import Cluster
start.start_ray(Cluster(num_cpus=2), "cpu")
print("started", flush=True)
input()
"""


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can act as another user")
def test_another_user_can_do_nothing(place):
    """The attempts are made with no token, a wrong one, and the right one, with which one of them works."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    environment = os.environ | WITHOUT_RAY | {"RAY_TMPDIR": str(place)}
    with subprocess.Popen([sys.executable, "-c", CLUSTER], env=environment, **pipes) as cluster:
        assert cluster.stdout.readline() == "started\n"
        (home,) = place.iterdir()
        said = said_to_nobody(home, open_below(place))
        cluster.communicate("\n")
    assert said == {"token": ["called", "tried"], "disabled": ["tried"], "a wrong token": ["tried"]}


def said_to_nobody(home: Path, processes: set[int]) -> dict[str, list[str]]:
    (gcs,) = (one for one in processes if b"gcs_server" in Path(f"/proc/{one}/cmdline").read_bytes())
    (port,) = {port for _, port in listening(gcs)}
    variables = dict(
        entry.partition(b"=")[::2] for entry in Path(f"/proc/{gcs}/environ").read_bytes().split(b"\0")
    )
    right = variables[b"RAY_AUTH_TOKEN"].decode()
    tokens = {"token": right, "disabled": "", "a wrong token": "f" * 64}
    attempts = {
        name: subprocess.Popen(
            [sys.executable, "-c", ATTEMPTS, str(home), str(port), *map(str, processes)],
            env={"PATH": os.environ["PATH"], "RAY_AUTH_MODE": name.split()[-1], "RAY_AUTH_TOKEN": token},
            cwd="/",
            stdout=subprocess.PIPE,
            text=True,
        )
        for name, token in tokens.items()
    }
    return {name: attempt.communicate(timeout=240)[0].split() for name, attempt in attempts.items()}


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_nothing_is_left_after_a_signal(run, place, tmp_path, number):
    until(has_written(tmp_path, run))
    processes = open_below(place) - {run.pid}
    os.kill(run.pid, number)
    until(lambda: run.poll() and not any(Path(f"/proc/{process}").exists() for process in processes), 30)
    assert len(processes) > 5 and not any(place.iterdir()) and not open_below(place)
    finish(run)


def hold(place: Path) -> subprocess.Popen:
    """Start a process that makes a private folder and prints its path; it lives until its input ends."""
    code = (
        "from pipeline.run.cluster.private import *; f = PrivateFolder(); print(f.path, flush=True); input()"
    )
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    environment = os.environ | {"RAY_TMPDIR": str(place)}
    return subprocess.Popen([sys.executable, "-c", code], env=environment, **pipes)


def test_a_folder_of_a_killed_run_is_removed_by_the_next_one(place):
    killed = hold(place)
    abandoned = Path(killed.stdout.readline().strip()).parent
    writer = subprocess.Popen(["sleep", "1000"], stdout=(abandoned / "log").open("w"))
    (sweeping,) = (entry for entry in Path("/proc").iterdir() if is_sweeper(entry, abandoned))
    os.kill(int(sweeping.name), signal.SIGKILL)
    killed.kill()
    killed.wait()
    with hold(place) as another:
        own = Path(another.stdout.readline().strip()).parent
        until(lambda: not abandoned.exists(), 20)
        assert own.is_dir() and writer.wait(10) == -signal.SIGKILL
        with hold(place) as third:
            third.stdout.readline()
            time.sleep(1)
            assert own.is_dir()  # its run is alive
            third.communicate("\n")
        another.communicate("\n")
    assert not any(place.iterdir())


def is_sweeper(process: Path, folder: Path) -> bool:
    with contextlib.suppress(OSError):
        return str(folder).encode() in (process / "cmdline").read_bytes()
    return False


def test_readers_and_other_users_folders_are_left_alone(place):
    (place / f"{sweeper.PREFIX}link").symlink_to(place)
    locked = place / f"{sweeper.PREFIX}locked"
    locked.mkdir()
    (locked / "file").write_text("x")
    with (locked / "file").open():
        assert open_below(locked) == set()
    assert list(sweeper.abandoned(place)) == []  # too young to be abandoned without a lock
    os.utime(locked, (1, 1))
    assert list(sweeper.abandoned(place)) == [locked]
    if os.geteuid() == 0:
        os.chown(locked, 65534, -1)
        assert list(sweeper.abandoned(place)) == []


def test_a_folder_that_ray_cannot_use_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path / "none"))
    with pytest.raises(ConfigError, match=r"RAY_TMPDIR=.*no folder"):
        private._place()
    monkeypatch.setenv("RAY_TMPDIR", "/proc")
    with pytest.raises(ConfigError, match=r"/proc: Ray's folder cannot be made there \(.*\); name another"):
        private.PrivateFolder()
    long = tmp_path / ("x" * 30)
    long.mkdir()
    monkeypatch.setenv("RAY_TMPDIR", str(long))
    with pytest.raises(ConfigError, match="more than 19 bytes"):
        private._place()


def test_a_folder_for_logs_that_cannot_be_is_refused_at_the_start(place, tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_TMPDIR", str(place))
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"cluster\.logs=.*file"):
        private.PrivateFolder(str(tmp_path / "file"))
    assert not any(place.iterdir())


def test_a_link_to_the_temporary_folder_is_followed(place, tmp_path, monkeypatch):
    import tempfile

    (tmp_path / "link").symlink_to(place)
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "link"))
    assert private._place() == str(place.resolve())


def test_kept_logs_are_closed_to_others(tmp_path):
    logs = tmp_path / "folder/r/session_2026/logs"
    logs.mkdir(parents=True)
    (logs / "a.log").write_text("x")
    logs.chmod(0o777)
    sweeper.sweep(tmp_path / "folder", logs=str(tmp_path / "kept"))
    kept = tmp_path / "kept/session_2026"
    assert stat.S_IMODE(kept.stat().st_mode) == 0o700 and (kept / "a.log").read_text() == "x"


def test_the_folder_goes_even_if_logs_cannot_be_kept(tmp_path):
    (tmp_path / "folder/r/session_2026/logs").mkdir(parents=True)
    (tmp_path / "file").write_text("")
    sweeper.sweep(tmp_path / "folder", logs=str(tmp_path / "file"))
    assert not (tmp_path / "folder").exists()


def test_a_place_that_cannot_be_listed_stops_no_sweeper(tmp_path, monkeypatch):
    import io
    from types import SimpleNamespace

    def gone(place):
        raise FileNotFoundError(place)

    (tmp_path / "folder").mkdir()
    monkeypatch.setattr(sweeper, "abandoned", gone)
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO()))
    sweeper.sweep_after_run(tmp_path / "folder", None)
    assert not (tmp_path / "folder").exists()
