"""kill -9 of a node: two Ray nodes on this host, each with addresses, ports and workers of its own."""

import os
import random
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from campaign import files, long, prove, wait_until
from processes import end_session, finish, members, start

RAY = str(Path(sys.executable).with_name("ray"))
HEAD, SECOND, PORT = "127.0.0.2", "127.0.0.3", 16380
ENVIRONMENT = {
    "RAY_AUTH_MODE": "token",
    "RAY_AUTH_TOKEN": secrets.token_hex(32),
    "RAY_health_check_period_ms": "500",
    "RAY_health_check_timeout_ms": "1000",
    "RAY_health_check_failure_threshold": "3",
    "RAY_health_check_initial_delay_ms": "1000",
}
pytestmark = [pytest.mark.chaos, pytest.mark.timeout(1200)]


class Node:
    """A Ray node in a session of its own."""

    def __init__(self, address: str, first_port: int, *more: str) -> None:
        command = [
            *(
                RAY,
                "start",
                f"--node-ip-address={address}",
                "--num-cpus=1",
                "--block",
                "--disable-usage-stats",
            ),
            *(f"--min-worker-port={first_port}", f"--max-worker-port={first_port + 99}", *more),
        ]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "start_new_session": True}
        self.process = subprocess.Popen(command, env=os.environ | ENVIRONMENT, **quiet)

    def kill(self) -> None:
        """kill -9 of all that it is: the node is gone."""
        for pid in members(self.process.pid):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        end_session(self.process.pid)
        self.process.wait()


def second() -> Node:
    return Node(SECOND, 21100, f"--address={HEAD}:{PORT}")


@contextmanager
def cluster() -> Iterator[Node]:
    """Head and second node; yields the second."""
    head = Node(HEAD, 21000, "--head", f"--port={PORT}", "--include-dashboard=false")
    try:
        time.sleep(5)
        yield second()
    finally:
        head.kill()


@long
def test_a_node_is_killed_and_another_one_comes(made):
    """Actors of one node cannot all stand on the other: what is lost waits for the node that replaces it."""
    chance, output = random.Random(11), made.folder / "node"
    with cluster() as node:
        _wait_for_nodes(2)
        command = made.command(str(output), f"cluster.address={HEAD}:{PORT}")
        process = start(command, made.folder, **ENVIRONMENT)
        moment = chance.randrange(2, len(made.names) // 2)
        assert wait_until(lambda: files(output) >= moment, process), process.communicate()
        node.kill()
        at, began = files(output), time.monotonic()
        other = second()
        try:
            done = finish(process)
        finally:
            other.kill()
    assert 0 < at < len(made.names)
    assert done.returncode == 0, done.stderr
    prove(made, output, "node killed", files=at, finished_s=round(time.monotonic() - began, 1))


def _wait_for_nodes(count: int) -> None:
    code = (
        f"import ray, time; ray.init('{HEAD}:{PORT}', _node_ip_address='{HEAD}', logging_level='ERROR')\n"
        f"while sum(node['Alive'] for node in ray.nodes()) < {count}: time.sleep(0.2)"
    )
    subprocess.run([sys.executable, "-c", code], env=os.environ | ENVIRONMENT, check=True, timeout=120)
