"""Start Ray nodes on this host, each with its own address, ports and workers."""

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.support.ports import free_block
from tests.support.processes import end_session, members

HEAD, SECOND = "127.0.0.2", "127.0.0.3"
_PORTS = 110  # per node: 100 for workers, one for the dashboard's agent, the rest for the head
_HEAD_FIRST = free_block(2 * _PORTS)
_SECOND_FIRST = _HEAD_FIRST + _PORTS
PORT, DASHBOARD_PORT = _HEAD_FIRST + 101, _HEAD_FIRST + 102
STARTS_WITHIN_S = 400
ENVIRONMENT = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
# a killed node is detected within seconds; so is a live node that waits too long for a core
IMPATIENT = {
    "RAY_health_check_period_ms": "500",
    "RAY_health_check_timeout_ms": "1000",
    "RAY_health_check_failure_threshold": "3",
    "RAY_health_check_initial_delay_ms": "1000",
}
# Variables by which a local cluster, that this process may have started before, keeps to 127.0.0.1.
_OF_LOCAL_CLUSTERS = ("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER",)
RAY = str(Path(sys.executable).with_name("ray"))


class Node:
    """A Ray node in its own process session."""

    def __init__(
        self, address: str, first_port: int, *options: str, folder: str | None = None, **environment: str
    ) -> None:
        """Start the node; `folder` is its temporary folder, deleted when the node is killed."""
        options = (*options, f"--temp-dir={folder}") if folder else options
        command = [
            *(RAY, "start", f"--node-ip-address={address}", "--block", "--disable-usage-stats"),
            *(f"--min-worker-port={first_port}", f"--max-worker-port={first_port + 99}"),
            *(f"--dashboard-agent-listen-port={first_port + 100}", *options),
        ]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "start_new_session": True}
        self._folder = folder
        own = {name: value for name, value in os.environ.items() if name not in _OF_LOCAL_CLUSTERS}
        self.process = subprocess.Popen(command, env=own | ENVIRONMENT | environment, **quiet)

    def kill(self) -> None:
        """Kill all processes of the node with SIGKILL."""
        for pid in members(self.process.pid):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        end_session(self.process.pid)
        self.process.wait()
        if self._folder:
            shutil.rmtree(self._folder, ignore_errors=True)


def second(cpus: int, **environment: str) -> Node:
    """Start a node that joins the head."""
    # Each node needs its own folder, or one deletes the packages that the other runs from. The path is short,
    # because sockets lie in it.
    folder = tempfile.mkdtemp(prefix="ray-", dir="/tmp")
    joined = (f"--address={HEAD}:{PORT}", f"--num-cpus={cpus}")
    return Node(SECOND, _SECOND_FIRST, *joined, folder=folder, **environment)


@contextmanager
def cluster(cpus: int, *, dashboard: bool = False, **environment: str) -> Iterator[Node]:
    """Start a head and a second node with `cpus` CPUs each; yields the second node."""
    dashboard_options = [f"--include-dashboard={'true' if dashboard else 'false'}"]
    dashboard_options += (
        [f"--dashboard-host={HEAD}", f"--dashboard-port={DASHBOARD_PORT}"] if dashboard else []
    )
    head = Node(
        HEAD, _HEAD_FIRST, "--head", f"--port={PORT}", f"--num-cpus={cpus}", *dashboard_options, **environment
    )
    try:
        _wait_for_head(head)
        yield _joined(cpus, **environment)
    finally:
        head.kill()


def _joined(cpus: int, **environment: str) -> Node:
    """Start a second node until one stays: Ray's own node gives up if its agent is slow to start."""
    for _ in range(5):
        node = second(cpus, **environment)
        if wait_for_nodes(2, node):
            return node
        node.kill()
    raise RuntimeError("no second node stayed")


def _wait_for_head(head: Node) -> None:
    """Wait until other nodes can join the head."""
    until = time.monotonic() + STARTS_WITHIN_S
    while time.monotonic() < until and head.process.poll() is None:
        with suppress(OSError), socket.create_connection((HEAD, PORT), timeout=5):
            return
        time.sleep(0.1)
    raise RuntimeError(f"the head node did not come up: exit status {head.process.poll()}")


def wait_for_nodes(count: int, node: Node | None = None) -> bool:
    """Wait until `count` nodes are alive; False if the process of `node` ends before."""
    code = (
        f"import ray, time; ray.init('{HEAD}:{PORT}', _node_ip_address='{HEAD}', logging_level='ERROR')\n"
        f"while sum(node['Alive'] for node in ray.nodes()) < {count}: time.sleep(0.2)"
    )
    until = time.monotonic() + STARTS_WITHIN_S
    with subprocess.Popen([sys.executable, "-c", code], env=os.environ | ENVIRONMENT) as waiting:
        while waiting.poll() is None:
            has_ended = node is not None and node.process.poll() is not None
            if has_ended or time.monotonic() > until:
                waiting.kill()
                if has_ended:
                    return False
                raise RuntimeError(f"there are no {count} nodes after {STARTS_WITHIN_S} s")
            time.sleep(0.2)
        assert waiting.returncode == 0
    return True
