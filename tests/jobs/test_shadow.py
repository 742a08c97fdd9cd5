"""A real sweep of two runs of the installed command: no package of the user is imported, no credentials leak.

The working directory holds packages `pipeline`, `jobs`, `conf` and `trim` that must not be imported instead
of ours. Credentials must not appear in anything that is printed, written or logged.
"""

import json
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.support.installed import PACKAGES

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

CANARIES = {
    "AWS_SECRET_ACCESS_KEY": "CANARY-of-the-environment",
    "AWS_SESSION_TOKEN": "CANARY-token-of-the-environment",
}
# quotes and '=' as real session tokens have them
OVERRIDES = ["storage.key=CANARY-key", "storage.secret='CANARY-secret'", "storage.token=CANARY/token+A=="]
# Ray then records each driver's command line in a file, as it does anyway in the cluster's own tables
RECORDS = {"RAY_enable_export_api_write_config": "EXPORT_DRIVER_JOB,EXPORT_TASK,EXPORT_ACTOR,EXPORT_NODE"}
POINTS = [f"decoding.max_new_tokens={count},limit=2" for count in (1, 2)]


@dataclass
class Run:
    folder: Path
    logs: Path
    process: subprocess.CompletedProcess[str]


@pytest.fixture(scope="module")
def run(installed) -> Iterator[Run]:
    with tempfile.TemporaryDirectory() as logs:
        process = installed.run(
            *("trimline", "annotate", "-m", "decoding.max_new_tokens=1,2", "limit=2", *OVERRIDES),
            f"cluster.logs={logs}",
            RAY_BACKEND_LOG_LEVEL="info",
            **CANARIES,
            **RECORDS,
        )
        yield Run(installed.folder, Path(logs), process)


def test_the_users_packages_are_not_imported(run):
    assert run.process.returncode == 0, run.process.stderr
    assert "wrong package" not in run.process.stdout + run.process.stderr


def test_each_point_has_its_output_and_nothing_else_is_written(run):
    assert sorted(path.name for path in (run.folder / "output").iterdir()) == POINTS
    assert {path.name for path in run.folder.iterdir()} == {*PACKAGES, "output"}
    for count, point in enumerate(POINTS, start=1):
        output = run.folder / "output" / point
        assert (output / "_SUCCESS").exists()
        rows = pq.read_table(output / "data").to_pylist()
        assert [row["status"] for row in rows] == ["ok"] * len(rows) and len(rows) >= 2
        assert all(row["generated_tokens"] <= count for row in rows)
        assert {row["model"] for row in rows} == {"demo"}, "the trained checkpoint came with the wheel"
        configuration = json.loads((output / "run.json").read_text())["configuration"]
        assert not {"key", "secret", "token"} & configuration["storage"].keys()


def test_the_installed_command_reads_its_output(run, installed):
    output = f"output='output/{POINTS[0]}'"
    reported = installed.run("trimline", "report", output)
    assert reported.returncode == 0, reported.stderr
    assert (run.folder / "output" / POINTS[0] / "report.html").is_file()
    status = installed.run("trimline", "status", output)
    assert (status.returncode, status.stderr) == (0, "") and "state     finished" in status.stdout


def test_no_output_holds_credentials(run):
    assert "CANARY" not in run.process.stdout + run.process.stderr
    files = [path for path in (run.folder / "output").rglob("*") if path.is_file()]
    assert len(files) >= 8
    for path in files:
        assert b"CANARY" not in path.read_bytes(), path
        if path.suffix == ".parquet":
            assert "CANARY" not in str(pq.read_table(path).to_pylist()), path
            assert "CANARY" not in str(pq.read_metadata(path).metadata), path
        assert "CANARY" not in str(path)


def test_no_log_of_ray_holds_credentials(run):
    files = [path for path in run.logs.rglob("*") if path.is_file()]
    logged = {path: path.read_bytes() for path in files}
    assert len(logged) > 20
    recorded = b"".join(text for path, text in logged.items() if "DRIVER_JOB" in path.name)
    assert b"limit=2" in recorded, "Ray records the command line"
    assert b"storage.secret=${oc.env:TRIMLINE_STORAGE_SECRET}" in recorded
    assert [path for path, text in logged.items() if b"CANARY" in text] == []
