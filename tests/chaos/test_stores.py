"""The store goes away, the disk is full, the output cannot be written."""

import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from pipeline.storage.uris import list_names
from tests.chaos.campaign import TRIMLINE, counted, files, long, prove, wait_until
from tests.support.processes import finish, run, start
from tests.support.runs import lasting, rows
from tests.support.s3 import BUCKET, KEY, SECRET, Server

AWAY_S = 10.0
pytestmark = [pytest.mark.chaos, pytest.mark.timeout(1200)]


@long
def test_the_store_is_away_for_ten_seconds(made, tmp_path):
    with Server(tmp_path / "data") as server:
        fs, bucket = server.storage.open(f"s3://{BUCKET}")
        for tar in sorted(Path(made.tars).iterdir()):
            fs.put_file(str(tar), f"{bucket}/tars/{tar.name}")
        reach = [f"storage.endpoint_url={server.storage.endpoint_url}", "storage.region=us-east-1"]
        command = made.command(f"s3://{BUCKET}/out", *reach, tars=f"s3://{BUCKET}/tars")
        process = start(command, made.folder, AWS_ACCESS_KEY_ID=KEY, AWS_SECRET_ACCESS_KEY=SECRET)
        there = wait_until(lambda: list(list_names(fs, f"{bucket}/out/data")), process)
        assert there and len(there) < len(made.names), "the outage has to fall into the run"
        server.kill()
        time.sleep(AWAY_S)
        assert process.poll() is None, process.communicate()
        server.start()
        began = time.monotonic()
        done = finish(process)
        assert done.returncode == 0, done.stderr
        seconds = round(time.monotonic() - began, 1)
        fs.get(f"{bucket}/out/", str(tmp_path / "copy"), recursive=True)
    assert counted(tmp_path / "copy") == (0, 0)
    assert lasting(rows(tmp_path / "copy"), "source") == [
        {name: value for name, value in row.items() if name != "source"} for row in made.rows
    ]
    made.log("store away", seconds=AWAY_S, files=len(there), finished_s=seconds, rows_lost=0, rows_doubled=0)


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 2 MiB of its own, as root mounts it."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(place)], capture_output=True
    )
    if mounted.returncode:
        pytest.skip(f"a small disk has to be mounted: {mounted.stderr.decode().strip()}")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


@long
def test_the_disk_is_full_and_then_is_not(made, small_disk):
    output = small_disk / "out"
    (small_disk / "ballast").write_bytes(os.urandom(1_700_000))
    done = run(made.command(str(output)), made.folder)
    assert done.returncode == 1, done.stdout
    assert "No space left on device" in done.stderr and "run the same command again" in done.stderr
    assert "Traceback" not in done.stderr
    at = files(output)
    (small_disk / "ballast").unlink()
    shutil.copytree(output, made.folder / "full", ignore=shutil.ignore_patterns("*.tmp"))
    prove(made, made.folder / "full", "disk full", files=at)


@long
def test_an_output_that_cannot_be_written_is_refused_by_name(made, small_disk):
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    done = run(made.command(str(small_disk / "out")), made.folder)
    assert (done.returncode, done.stdout) == (2, "")
    assert "Read-only file system" in done.stderr and len(done.stderr.strip().splitlines()) == 1


def test_verify_tells_an_output_that_is_gone_in_one_line(made, tmp_path):
    done = run([TRIMLINE, "verify", f"output={tmp_path}/none"], made.folder)
    assert done.returncode == 2 and len(done.stderr.strip().splitlines()) == 1
