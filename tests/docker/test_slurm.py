"""Run the Slurm script on this machine: real Ray nodes and a real run; only Slurm itself is stood in for."""

import os
import re
import signal
import stat
import time
from pathlib import Path

import pytest

from tests.docker.files import SLURM
from tests.support.commands import TRIMLINE
from tests.support.processes import WITHOUT_RAY, end_session, members, start
from tests.support.tars import jpeg

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

SRUN = """#!/bin/bash
while [[ "$1" == --* ]]; do shift; done
exec "$@"
"""


@pytest.fixture
def place():
    import tempfile

    with tempfile.TemporaryDirectory(dir="/tmp", prefix="t-") as folder:
        yield Path(folder)


@pytest.fixture
def job(tmp_path, place):
    """Start the script as on an allocation of two nodes."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "in").mkdir()
    for name, text in (("srun", SRUN), ("scontrol", "#!/bin/bash\necho one\necho two\n")):
        (tmp_path / "bin" / name).write_text(text)
        (tmp_path / "bin" / name).chmod(0o755)
    for number in range(6):
        (tmp_path / "in" / f"{number}.jpg").write_bytes(jpeg(number))
    command = ["bash", str(SLURM), f"source.path={tmp_path}/in", f"output={tmp_path}/out", "model=random"]
    command += ["task=caption", "unit_samples=1", "decoding.max_new_tokens=2", "device=cpu"]
    return start(
        command,
        tmp_path,
        **WITHOUT_RAY,
        PATH=f"{tmp_path}/bin:{Path(TRIMLINE).parent}:{os.environ['PATH']}",
        SLURM_JOB_ID=str(os.getpid()),
        SLURM_JOB_NODELIST="one,two",
        SLURM_CPUS_PER_TASK="2",
        RAY_TMPDIR=str(place),
        RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER="1",  # as where no local cluster was started before
    )


def told(job) -> tuple[str, str]:
    """End a job that gets nowhere, and return what it has printed."""
    end_session(job.pid)
    return job.communicate()


def wait_for(condition, job):
    until = time.monotonic() + 240
    while not condition():
        assert job.poll() is None and time.monotonic() < until, told(job)
        time.sleep(0.1)


def test_what_the_nodes_keep_is_closed_and_removed_at_a_time_limit(job, place, tmp_path):
    wait_for(lambda: any((tmp_path / "out" / "data").glob("*.parquet")), job)
    homes = list(place.iterdir())
    assert len(homes) == 2 and {stat.S_IMODE(home.stat().st_mode) for home in homes} == {0o700}
    lines = [Path(f"/proc/{process}/cmdline").read_bytes() for process in members(job.pid)]
    token = re.search(rb"RAY_AUTH_TOKEN=(\w{64})", Path(f"/proc/{members(job.pid)[-1]}/environ").read_bytes())
    assert lines and token and not any(token[1] in line for line in lines)
    os.kill(job.pid, signal.SIGTERM)  # as `--signal=B:TERM@60` does
    said = job.communicate(timeout=120)[1]
    assert job.returncode == 1 and "interrupted" in said
    until = time.monotonic() + 10  # what Ray has told to end may need a moment
    while members(job.pid) and time.monotonic() < until:
        time.sleep(0.1)
    assert not any(place.iterdir()) and members(job.pid) == []
