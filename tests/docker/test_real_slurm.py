"""Run the batch scripts on a real Slurm: slices as an array, a lost node, and the job that ends the run."""

import os
import tempfile
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.docker.files import FINISH, SLURM
from tests.support.commands import TRIMLINE, trimline
from tests.support.processes import WITHOUT_RAY
from tests.support.slurm import Slurm, is_installed
from tests.support.tars import jpeg

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(not is_installed(), reason="needs Debian's packages slurm-wlm and munge"),
]

PICTURES, SHARDS = 80, 8
CORES = set(os.sched_getaffinity(0))


@pytest.fixture(scope="module")
def slurm():
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="t-") as folder:
        (Path(folder) / "s").mkdir()
        started = Slurm(Path(folder) / "s", ("one", "two"))
        try:
            yield started
        finally:
            started.kill()


@pytest.fixture
def settings(tmp_path):
    """The arguments of a run of few pictures, whose units take a moment each."""
    (tmp_path / "in").mkdir()
    for number in range(PICTURES):
        (tmp_path / "in" / f"{number:02d}.jpg").write_bytes(jpeg(number, 64))
    where = [f"source.path={tmp_path}/in", f"output={tmp_path}/out"]
    small = ["model=random", "task=caption", "device=cpu", "unit_samples=1", "decoding.max_new_tokens=8"]
    return [*where, *small, f"source.slice_files={PICTURES // SHARDS}"]


def environment(slurm: Slurm) -> dict[str, str]:
    """The variables of a user whose `trimline` is on the PATH."""
    return {
        **WITHOUT_RAY,
        "PATH": f"{Path(TRIMLINE).parent}:{os.environ['PATH']}",
        "RAY_TMPDIR": str(slurm.folder.parent),
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "1",  # as where no local cluster was started before
    }


def states(slurm: Slurm, job: str) -> list[str]:
    return [task["JobState"] for task in slurm.jobs(job)]


def ended(slurm: Slurm, *jobs: str) -> bool:
    """Whether no task of the jobs waits or runs."""
    found = {state for job in jobs for state in states(slurm, job)}
    return bool(found) and found <= {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL"}


def raylets(slurm: Slurm, job: str) -> list[int]:
    """List Ray's node processes of a job."""
    names = {process: Path(f"/proc/{process}/comm") for process in slurm.processes(SLURM_JOB_ID=job)}
    return [process for process, comm in names.items() if comm.is_file() and comm.read_text() == "raylet\n"]


def shards(folder: Path) -> list[int]:
    """The shards of the files that are there, in order."""
    return sorted(int(file.name[:6]) for file in folder.glob("out/data/*.parquet"))


def test_a_step_has_one_core_unless_it_is_told(slurm):
    """Without this rule of Slurm's the next tests of cores would prove nothing."""
    count = "env -u OMP_NUM_THREADS nproc"
    job = slurm.submit("--nodes=1", "--exclusive", f"--wrap={count}; srun --ntasks=1 {count}")
    slurm.wait(lambda: states(slurm, job) == ["COMPLETED"], 60)
    (log,) = slurm.folder.glob(f"job-{job}_*.log")
    assert log.read_text().split() == [str(len(CORES)), "1"]


def test_slices_outlive_a_node_and_every_row_is_there_once(slurm, settings, tmp_path):
    variables = environment(slurm)
    array = slurm.submit("--array=0-1", "--nodes=1", SLURM, *settings, **variables)
    options = [f"--dependency=afterany:{array}", f"--cpus-per-task={len(CORES)}"]
    end = slurm.submit(*options, FINISH, f"output={tmp_path}/out", **variables)

    def nodes() -> list[list[int]]:
        return [raylets(slurm, task["JobId"]) for task in slurm.jobs(array)]

    slurm.wait(lambda: [len(found) for found in nodes()] == [1, 1], 200)  # both slices run at once
    assert [os.sched_getaffinity(process) for (process,) in nodes()] == [CORES] * 2, "all cores of the node"
    slurm.wait(lambda: shards(tmp_path)[-1:] >= [SHARDS // 2], 400)
    (first, second), (last,) = slurm.jobs(array), slurm.jobs(end)
    assert {first["NodeList"], second["NodeList"]} == {"one", "two"} and last["JobState"] == "PENDING"
    slurm.kill_node(second["NodeList"])
    assert len([shard for shard in shards(tmp_path) if shard >= SHARDS // 2]) < PICTURES // 2

    slurm.wait(lambda: slurm.jobs(array)[1]["Restarts"] == "1", 120)
    slurm.start_node(second["NodeList"])
    slurm.wait(lambda: ended(slurm, array, end), 600)
    assert [*states(slurm, array), *states(slurm, end)] == ["COMPLETED"] * 3, slurm.logs()
    assert (tmp_path / "out" / "_SUCCESS").is_file()
    rows = [row for file in (tmp_path / "out" / "data").iterdir() for row in pq.read_table(file).to_pylist()]
    assert sorted(row["sample_key"] for row in rows) == [f"{number:02d}.jpg" for number in range(PICTURES)]
    assert {row["status"] for row in rows} == {"ok"}
    checked = trimline("verify", f"output={tmp_path}/out", "deep=true")
    assert checked.returncode == 0, checked.stderr


def test_a_run_has_one_ray_node_on_each_of_two(slurm, settings, tmp_path):
    kept = set(slurm.folder.parent.iterdir())  # with what a killed node could not remove
    job = slurm.submit("--nodes=2", SLURM, *settings, "limit=20", **environment(slurm))
    slurm.wait(lambda: len(raylets(slurm, job)) == 2 or ended(slurm, job), 200)
    assert [os.sched_getaffinity(process) for process in raylets(slurm, job)] == [CORES] * 2
    slurm.wait(lambda: ended(slurm, job), 400)
    assert states(slurm, job) == ["COMPLETED"], slurm.logs()
    assert (tmp_path / "out" / "_SUCCESS").is_file()
    assert set(slurm.folder.parent.iterdir()) == kept, "Ray's files are removed"
