"""Test that a secret, however it is given, is found nowhere: a real run, searched while it runs and after."""

import os
import socket
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.support.commands import TRIMLINE, trimline
from tests.support.processes import WITHOUT_RAY, finish, start
from tests.support.tars import jpeg

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

# A reducer that tells all it knows in the error that it raises.
LEAKY = """
import os
from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True)
class Leaky:
    api_key: str = ""
    needs: ClassVar[frozenset] = frozenset()

    def __call__(self, x):
        known = [os.environ.get(name, "unset") for name in ("MY_TOKEN", "OF_FILE", "AWS_SECRET_ACCESS_KEY")]
        raise RuntimeError(f"refused: {known}; http://me:CANARY-url@host/x?X-Amz-Signature=CANARY-signature")
"""
CLUSTER = """
defaults: [local]
runtime_env:
  env_vars:
    OF_FILE: CANARY-of-a-file-of-configuration
"""
ENVIRONMENT = {
    "AWS_SECRET_ACCESS_KEY": "CANARY-secret-of-the-environment",
    "AWS_SESSION_TOKEN": "CANARY-token-of-the-environment",
    "HF_TOKEN": "CANARY-token-of-the-hub",
    "RAY_AUTH_TOKEN": "CANARY-token-of-the-cluster-0123456789",
    "HTTPS_PROXY": "http://me:CANARY-proxy@127.0.0.1:1",
    "OWN_API_KEY": "CANARY-of-a-class-of-the-user",
}
OVERRIDES = [
    "storage.key=CANARY-key",
    "storage.secret='CANARY-secret'",
    "storage.token=CANARY/token+A==",
    "storage.endpoint_url=http://me:CANARY-endpoint@127.0.0.1:1",
    "source_storage=default",
    "source_storage.key=CANARY-source-key",
    "source_storage.secret=CANARY-source-secret",
    "+cluster.runtime_env.env_vars.MY_TOKEN=CANARY-of-a-variable",
    "cluster.dashboard=http://me:CANARY-dashboard@127.0.0.1:1",
    "reducer.api_key=${oc.env:OWN_API_KEY}",
]
CANARY = b"CANARY"


@dataclass
class Watched:
    """What is seen of a run by others while it runs: command lines, files and metrics."""

    place: Path
    port: int
    driver: int
    found: list[str] = field(default_factory=list)
    looks: int = 0
    metrics: int = 0

    def has_hidden_its_own(self) -> bool:
        """Tell whether the process has replaced itself by one whose command line is harmless."""
        return b"oc.env:TRIMLINE_STORAGE_SECRET" in Path(f"/proc/{self.driver}/cmdline").read_bytes()

    def look(self) -> None:
        for entry in Path("/proc").iterdir():
            with suppress(OSError):
                if CANARY in (entry / "cmdline").read_bytes():
                    self.found.append(f"{entry}: {(entry / 'cmdline').read_bytes()!r}")
        self.found += found_below(self.place)
        with (
            suppress(OSError),
            urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=5) as page,
        ):
            text = page.read()
            self.metrics += b"ray_trimline" in text
            self.found += [f"metrics: {text!r}"] if CANARY in text else []
        self.looks += 1


def found_below(place: Path) -> list[str]:
    """List the files below a folder that hold a canary, or are called so."""
    found = []
    for folder, _, names in os.walk(place):
        for path in (Path(folder, name) for name in names):
            with suppress(OSError):  # it has gone meanwhile
                if path.is_file() and CANARY in path.read_bytes() + bytes(path):
                    found.append(str(path))
    return found


@dataclass
class Run:
    folder: Path
    watched: Watched
    said: str
    left: list[str]  # in the temporary folder


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Iterator[Run]:
    folder = tmp_path_factory.mktemp("canaries")
    for name in ("code", "conf/reducer", "conf/cluster", "in", "tmp"):
        (folder / name).mkdir(parents=True)
    (folder / "code/leaky.py").write_text(LEAKY)
    (folder / "conf/reducer/leaky.yaml").write_text("_target_: leaky.Leaky\napi_key: ''\n")
    (folder / "conf/cluster/mine.yaml").write_text(CLUSTER)
    for number in range(2):
        (folder / f"in/{number}.jpg").write_bytes(jpeg(number))
    import tempfile

    with socket.socket() as probe, tempfile.TemporaryDirectory(dir="/tmp", prefix="t-") as place:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        probe.close()
        command = [
            TRIMLINE,
            "annotate",
            "--config-dir",
            str(folder / "conf"),
            "reducer=leaky",
            "cluster=mine",
        ]
        command += [
            "source=images",
            "source.path=in",
            "model=random",
            "unit_samples=2",
            "max_failed_fraction=1",
        ]
        command += [f"metrics_port={port}", f"cluster.logs={folder}/logs", "task=caption", *OVERRIDES]
        process = start(
            command,
            folder,
            **WITHOUT_RAY | ENVIRONMENT,
            PYTHONPATH=os.pathsep.join([str(folder / "code"), *filter(None, [os.environ.get("PYTHONPATH")])]),
            RAY_BACKEND_LOG_LEVEL="info",
            RAY_TMPDIR=place,
            TMPDIR=place,
            RAY_metrics_report_interval_ms="500",
        )
        watched = Watched(Path(place), port, process.pid)
        while process.poll() is None and not watched.has_hidden_its_own():
            pass

        def watch() -> None:
            while process.poll() is None:
                watched.look()
                time.sleep(1)

        watcher = threading.Thread(target=watch)
        watcher.start()
        ended = finish(process)
        watcher.join()
        assert ended.returncode == 0, ended.stderr
        left = [entry.name for entry in Path(place).iterdir()]
        yield Run(folder, watched, ended.stdout + ended.stderr, left)


def test_others_see_no_secret_while_it_runs(run):
    assert run.watched.looks > 5 and run.watched.metrics > 0
    assert run.watched.found == []


def test_no_temporary_file_is_left(run):
    assert run.left == []


def test_nothing_that_is_said_or_written_holds_a_secret(run):
    assert "CANARY" not in run.said
    assert len(list((run.folder / "logs").rglob("*"))) > 20
    for name in ("in", "output", "logs", "tmp"):
        assert found_below(run.folder / name) == []


def test_rows_keep_the_error_without_the_secrets(run):
    rows = pq.read_table(run.folder / "output/data").to_pylist()
    assert len(rows) == 2 and {row["status"] for row in rows} == {"failed"}
    assert "CANARY" not in str(rows)
    assert {row["error"] for row in rows} and all(
        "refused: ['***', '***', '***']" in row["error"] for row in rows
    )
    for file in (run.folder / "output/data").glob("*.parquet"):
        assert "CANARY" not in str(pq.read_metadata(file).metadata)


@pytest.mark.parametrize("command", ["status", "report", "verify", "export"])
def test_commands_that_read_the_output_say_no_secret(run, command):
    own = [f"to={run.folder}/exported"] if command == "export" else []
    ended = trimline(command, f"output={run.folder}/output", *own, **ENVIRONMENT)
    assert "CANARY" not in ended.stdout + ended.stderr
    assert found_below(run.folder / "output") == []
    assert found_below(run.folder / "exported") == []


REFUSED = [
    "source.path=https://me:CANARY@host/x.tar",
    "source.path=https://host/x.tar?X-Amz-Signature=CANARY",
    "source.path=https://account.blob.core.windows.net/c/x.tar?sv=1&sig=CANARY",
    "source.path=https://storage.googleapis.com/b/x.tar?X-Goog-Signature=CANARY",
    "source.path=s3://AKIAIOSFODNN7EXAMPLE:CANARY@bucket/x",
    "output=ftp://me:CANARY@host/out",
    "model.path=https://me:CANARY@host/model",
    "storage.endpoint_url=ftp://me:CANARY@host?token=CANARY",
    "cluster.runtime_env=[CANARY-of-a-variable, env_vars]",
    "cluster.runtime_env.env_vars=CANARY-of-a-variable",
]


@pytest.mark.parametrize("override", REFUSED)
def test_what_is_refused_is_told_without_the_secret(annotate, override):
    status, out, err = annotate(override)
    assert status in (1, 2) and err.count("\n") == 1, err
    assert "CANARY" not in out + err
