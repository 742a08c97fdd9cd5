"""A cluster of two nodes on this host, joined and submitted to: its input and output lie on S3 alone."""

import os
import re
import shutil
import signal
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from pipeline.run.cluster.ship import NAMES, ROOT
from pipeline.support.schema import VOLATILE
from tests.jobs.test_new_reducer import MIDDLE
from tests.support.commands import trimline
from tests.support.nodes import DASHBOARD_PORT, ENVIRONMENT, HEAD, PORT, SECOND, cluster
from tests.support.processes import finish, start
from tests.support.s3 import BUCKET, KEY, SECRET, Server
from tests.support.tars import write_tar

SETTINGS = [
    *("source=webdataset", "task=vqa", "model=random", "reducer=middle", "decoding.max_new_tokens=3"),
    *("device=cpu", "unit_samples=2", "cluster.encode.threads=1", "cluster.generate.threads=1"),
]
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


class Place:
    """A bucket with a tar, two nodes that reach it, and a copy of Trimline that only its user has."""

    def __init__(self, folder: Path, server: Server) -> None:
        self.folder, self.storage = folder, server.storage
        self.code = folder / "code"
        for name in NAMES:
            shutil.copytree(ROOT / name, self.code / name, ignore=shutil.ignore_patterns("__pycache__"))
        (self.code / "trim" / "middle.py").write_text(MIDDLE)
        (self.code / "own" / "reducer").mkdir(
            parents=True
        )  # configuration of the user's: it has to travel, too
        (self.code / "own" / "reducer" / "middle.yaml").write_text("_target_: trim.middle.Middle\nside: 4\n")
        fs, _ = self.storage.open(f"s3://{BUCKET}")
        fs.put(str(write_tar(folder / "in.tar", 24, questions=2)), f"{BUCKET}/in/a.tar")
        fs.put(str(write_tar(folder / "long.tar", 400, questions=2)), f"{BUCKET}/long/a.tar")

    def start(self, output: str, *overrides: str, source: str = "in"):
        """`trimline annotate` by the user's copy."""
        where = [f"source.path=s3://{BUCKET}/{source}", f"output=s3://{BUCKET}/{output}"]
        where.append(f"storage.endpoint_url={self.storage.endpoint_url}")
        command = [sys.executable, "-m", "jobs.main", "annotate", "--config-dir", "own"]
        command += [*SETTINGS, *where, *overrides]
        return start(command, self.code, **ENVIRONMENT, **self.environment(self.folder))

    @staticmethod
    def environment(folder: Path) -> dict[str, str]:
        """Of the nodes, too: credentials do not travel with a job."""
        return {
            "AWS_ACCESS_KEY_ID": KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_DEFAULT_REGION": "us-east-1",
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "XDG_CACHE_HOME": str(folder / "cache"),
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
        made = Place(folder, server)
        with cluster(cpus=2, dashboard=True, **made.environment(folder)) as other:
            yield made
            other.kill()


@pytest.fixture(scope="module")
def local(place):
    done = finish(place.start("local"))
    assert done.returncode == 0, done.stderr
    return place.rows("local")


SUBMITTED = ["cluster=ray", "cluster.submit=true", f"cluster.dashboard=http://{HEAD}:{DASHBOARD_PORT}"]


JOINED = ["cluster=ray", f"cluster.address={HEAD}:{PORT}"]


def test_a_joined_cluster_answers_as_a_local_one(place, local):
    done = finish(place.start("joined", *JOINED))
    assert done.returncode == 0, done.stderr
    assert place.rows("joined") == local
    assert len(local) == 36


def test_both_nodes_work(place):
    """As soon as a node's actors have loaded; a short run has ended before the second's have."""
    done = finish(place.start("long", *JOINED, "decoding.max_new_tokens=40", source="long"))
    assert done.returncode == 0, done.stderr
    for address in (HEAD, SECOND):
        assert re.search(rf"rows answered on \S+/{address} ", done.stdout), done.stdout


def test_a_submitted_run_answers_as_a_local_one(place, local):
    done = finish(place.start("submitted", *SUBMITTED))
    assert done.returncode == 0, done.stderr + done.stdout
    assert place.rows("submitted") == local
    assert "submitted raysubmit_" in done.stderr
    assert "done" in done.stdout  # the job's own log


def test_after_ctrl_c_it_runs_on(place, local):
    process = place.start("detached", *SUBMITTED)
    told = process.stderr.readline()
    assert told.startswith("submitted raysubmit_"), told + process.stderr.read()
    time.sleep(1)
    os.kill(process.pid, signal.SIGINT)
    done = finish(process)
    assert done.returncode == 130
    assert "runs on" in done.stderr
    until = time.monotonic() + 200
    while not place.has("detached", "_SUCCESS") and time.monotonic() < until:
        time.sleep(0.5)
    assert place.rows("detached") == local


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
def test_what_cannot_be_submitted_is_told_in_one_line(overrides, reason):
    given = ["model=random", "output=s3://bucket/out", *SUBMITTED]
    done = trimline("annotate", *given, *overrides)
    assert done.returncode in (1, 2)
    assert reason in done.stderr
    assert done.stderr.count("\n") == 1
