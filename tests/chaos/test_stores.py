"""The object store fails for a while, the disk is full, the output is read-only."""

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
def test_a_run_survives_a_store_outage_of_ten_seconds(campaign, tmp_path):
    with Server(tmp_path / "data") as server:
        fs, bucket = server.storage.open(f"s3://{BUCKET}")
        for tar in sorted(Path(campaign.tars).iterdir()):
            fs.put_file(str(tar), f"{bucket}/tars/{tar.name}")
        storage = [f"storage.endpoint_url={server.storage.endpoint_url}", "storage.region=us-east-1"]
        command = campaign.command(f"s3://{BUCKET}/out", *storage, tars=f"s3://{BUCKET}/tars")
        process = start(command, campaign.folder, AWS_ACCESS_KEY_ID=KEY, AWS_SECRET_ACCESS_KEY=SECRET)
        names = wait_until(lambda: list(list_names(fs, f"{bucket}/out/data")), process)
        assert names and len(names) < len(campaign.names), "the outage has to fall into the run"
        server.kill()
        time.sleep(AWAY_S)
        assert process.poll() is None, process.communicate()
        server.start()
        began = time.monotonic()
        result = finish(process)
        assert result.returncode == 0, result.stderr
        seconds = round(time.monotonic() - began, 1)
        fs.get(f"{bucket}/out/", str(tmp_path / "copy"), recursive=True)
    assert counted(tmp_path / "copy") == (0, 0)
    assert lasting(rows(tmp_path / "copy"), "source") == [
        {name: value for name, value in row.items() if name != "source"} for row in campaign.rows
    ]
    campaign.log(
        "store away", seconds=AWAY_S, files=len(names), finished_s=seconds, rows_lost=0, rows_doubled=0
    )


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 2 MiB, mounted as root."""
    mount_point = tmp_path / "disk"
    mount_point.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(mount_point)], capture_output=True
    )
    if mounted.returncode:
        pytest.skip(f"a small disk has to be mounted: {mounted.stderr.decode().strip()}")
    yield mount_point
    subprocess.run(["umount", "-l", str(mount_point)], check=True)


@long
def test_a_run_fails_on_a_full_disk_and_recovers(campaign, small_disk):
    output = small_disk / "out"
    (small_disk / "ballast").write_bytes(os.urandom(1_700_000))
    result = run(campaign.command(str(output)), campaign.folder)
    assert result.returncode == 1, result.stdout
    assert "No space left on device" in result.stderr and "run the same command again" in result.stderr
    assert "Traceback" not in result.stderr
    files_when_full = files(output)
    (small_disk / "ballast").unlink()
    shutil.copytree(output, campaign.folder / "full", ignore=shutil.ignore_patterns("*.tmp"))
    prove(campaign, campaign.folder / "full", "disk full", files=files_when_full)


@long
def test_an_output_that_cannot_be_written_is_refused_by_name(campaign, small_disk):
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    result = run(campaign.command(str(small_disk / "out")), campaign.folder)
    assert (result.returncode, result.stdout) == (2, "")
    assert "Read-only file system" in result.stderr and len(result.stderr.strip().splitlines()) == 1


def test_verify_refuses_a_missing_output_in_one_line(campaign, tmp_path):
    result = run([TRIMLINE, "verify", f"output={tmp_path}/none"], campaign.folder)
    assert result.returncode == 2 and len(result.stderr.strip().splitlines()) == 1
