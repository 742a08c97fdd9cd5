"""Runs on a cluster of two nodes on this host, joined or submitted, with all data on S3."""

import os
import re
import shutil
import signal
import sys
import types
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from pipeline.run.cluster.ship import NAMES, ROOT
from pipeline.run.in_process import run_in_process
from pipeline.support.schema import VOLATILE
from tests.support.commands import compose
from tests.support.nodes import DASHBOARD_PORT, ENVIRONMENT, HEAD, PORT, RAY, SECOND, cluster
from tests.support.processes import finish, run, start
from tests.support.rich import MIDDLE
from tests.support.s3 import BUCKET, KEY, SECRET, Server
from tests.support.tars import write_tar

SETTINGS = [
    *("source=webdataset", "task=vqa", "model=random", "reducer=middle", "decoding.max_new_tokens=3"),
    *("device=cpu", "unit_samples=2", "cluster.encode.threads=1", "cluster.generate.threads=1"),
]
# an actor of `generate` on each node: two do not fit on one
ON_BOTH = ["cluster.encode.num_cpus=0.6", "cluster.generate.num_actors=2", "cluster.generate.num_cpus=1.05"]
# Ray Data then starts with all actors, not with the first one that has loaded
WAIT = {"RAY_DATA_DEFAULT_WAIT_FOR_MIN_ACTORS_S": "300"}
pytestmark = pytest.mark.timeout(1800)


class Place:
    """A bucket with a tar, two nodes that reach it, and a copy of Trimline that only the driver has."""

    def __init__(self, folder: Path, server: Server) -> None:
        self.folder, self.storage = folder, server.storage
        self.code = folder / "code"
        for name in NAMES:
            shutil.copytree(ROOT / name, self.code / name, ignore=shutil.ignore_patterns("__pycache__"))
        (self.code / "trim" / "middle.py").write_text(MIDDLE)
        (self.code / "own" / "reducer").mkdir(parents=True)  # the user's configuration has to travel, too
        (self.code / "own" / "reducer" / "middle.yaml").write_text("_target_: trim.middle.Middle\nside: 4\n")
        fs, _ = self.storage.open(f"s3://{BUCKET}")
        fs.put(str(write_tar(folder / "in.tar", 24, questions=2)), f"{BUCKET}/in/a.tar")

    def overrides(self, output: str) -> list[str]:
        """Return the overrides that all runs share."""
        where = [f"source.path=s3://{BUCKET}/in", f"output=s3://{BUCKET}/{output}"]
        return [*SETTINGS, *where, f"storage.endpoint_url={self.storage.endpoint_url}"]

    def start(self, output: str, *overrides: str, **environment: str):
        """Start `trimline annotate` from the user's copy of the code."""
        command = [sys.executable, "-m", "jobs.main", "annotate", "--config-dir", "own"]
        command += [*self.overrides(output), *overrides]
        return start(command, self.code, **ENVIRONMENT, **self.environment(), **environment)

    @staticmethod
    def environment() -> dict[str, str]:
        """Return the environment of runs and nodes; credentials do not travel with a job."""
        return {
            "AWS_ACCESS_KEY_ID": KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_DEFAULT_REGION": "us-east-1",
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        }

    def rows(self, output: str) -> list[dict]:
        fs, _ = self.storage.open(f"s3://{BUCKET}")
        files = sorted(name for name in fs.ls(f"{BUCKET}/{output}/data") if name.endswith(".parquet"))
        rows = [row for name in files for row in pq.read_table(fs.open(name)).to_pylist()]
        return [{key: value for key, value in row.items() if key not in VOLATILE} for row in rows]

    def has(self, output: str, name: str) -> bool:
        fs, _ = self.storage.open(f"s3://{BUCKET}")
        fs.invalidate_cache()
        return bool(fs.exists(f"{BUCKET}/{output}/{name}"))


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("nodes")
    with Server(folder / "weed") as server:
        new_place = Place(folder, server)
        with cluster(cpus=2, dashboard=True, **new_place.environment()) as second_node:
            yield new_place
            second_node.kill()


@pytest.fixture(scope="module")
def local(place):
    """The rows of a run in this process, without a cluster."""
    name = "trim.middle"  # as the user's copy has it
    module = types.ModuleType(name)
    exec(MIDDLE, vars(module))
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, name, module)
        for variable, value in place.environment().items():
            patch.setenv(variable, value)
        run_in_process(compose(f"hydra.searchpath=[file://{place.code / 'own'}]", *place.overrides("local")))
    return place.rows("local")


SUBMITTED = ["cluster=ray", "cluster.submit=true", f"cluster.dashboard=http://{HEAD}:{DASHBOARD_PORT}"]


JOINED = ["cluster=ray", f"cluster.address={HEAD}:{PORT}"]


@pytest.mark.slow
def test_a_joined_cluster_answers_as_a_local_one_on_both_nodes(place, local):
    result = finish(place.start("joined", *JOINED, *ON_BOTH, **WAIT))
    assert result.returncode == 0, result.stderr
    assert place.rows("joined") == local
    assert len(local) == 36
    for address in (HEAD, SECOND):
        assert re.search(rf"rows answered on \S+/{address} ", result.stdout), result.stdout


@pytest.mark.slow
def test_a_submitted_run_goes_on_after_ctrl_c_and_answers_as_a_local_one(place, local):
    process = place.start("submitted", *SUBMITTED)
    first = process.stderr.readline()
    assert first.startswith("submitted raysubmit_"), first + process.stderr.read()
    assert process.stdout.readline(), "the job's own log is followed"
    os.kill(process.pid, signal.SIGINT)
    result = finish(process)
    assert result.returncode == 130
    assert "runs on" in result.stderr
    job = re.findall(r"raysubmit_\w+", first)[0]
    dashboard = f"--address=http://{HEAD}:{DASHBOARD_PORT}"
    logged = run([RAY, "job", "logs", "--follow", job, dashboard], place.folder, **ENVIRONMENT)
    assert logged.returncode == 0, logged.stderr
    assert "\ndone\n" in logged.stdout
    assert place.has("submitted", "_SUCCESS")
    assert place.rows("submitted") == local

    again = finish(place.start("submitted", *SUBMITTED))  # followed until its end
    assert again.returncode == 0, again.stderr + again.stdout
    assert "submitted raysubmit_" in again.stderr
    assert "nothing to do: every shard was finished before" in again.stdout
    assert place.rows("submitted") == local


@pytest.mark.parametrize(
    ("overrides", "reason"),
    [
        (["output=here"], "output=here: a submitted run needs a URI"),
        (["storage.secret=abc", "storage.key=k"], "storage.secret: a job's command line is open"),
        (["cluster.dashboard=null"], "cluster.submit needs cluster.dashboard"),
        (["cluster.dashboard=http://127.0.0.1:9"], "cluster.dashboard=http://127.0.0.1:9: "),
        (["cluster.address=local"], "submit and ship need cluster=ray"),
        (
            ["cluster.runtime_env={working_dir: x}"],
            "cluster.runtime_env.working_dir: Trimline itself sets it",
        ),
    ],
)
def test_a_run_that_cannot_be_submitted_is_refused_in_one_line(annotate, overrides, reason):
    settings = ["source.path=demo:pictures", "model=random", "output=s3://bucket/out", *SUBMITTED]
    status, _, err = annotate(*settings, *overrides)
    assert status in (1, 2)
    assert reason in err
    assert err.count("\n") == 1
