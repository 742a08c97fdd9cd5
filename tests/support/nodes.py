"""Ray nodes on this host, each with an address, ports and workers of its own."""

import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.support.processes import end_session, members

HEAD, SECOND, PORT, DASHBOARD_PORT = "127.0.0.2", "127.0.0.3", 16380, 18265
SECOND_TEMPORARY = "/tmp/ray-second"  # short: sockets lie in it
ENVIRONMENT = {
    "RAY_AUTH_MODE": "token",
    "RAY_AUTH_TOKEN": secrets.token_hex(32),
    "RAY_health_check_period_ms": "500",
    "RAY_health_check_timeout_ms": "1000",
    "RAY_health_check_failure_threshold": "3",
    "RAY_health_check_initial_delay_ms": "1000",
}
_RAY = str(Path(sys.executable).with_name("ray"))


class Node:
    """A Ray node in a session of its own."""

    def __init__(self, address: str, first_port: int, *more: str, **environment: str) -> None:
        command = [
            *(_RAY, "start", f"--node-ip-address={address}", "--block", "--disable-usage-stats"),
            *(f"--min-worker-port={first_port}", f"--max-worker-port={first_port + 99}"),
            *(f"--dashboard-agent-listen-port={first_port + 100}", *more),
        ]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "start_new_session": True}
        self.process = subprocess.Popen(command, env=os.environ | ENVIRONMENT | environment, **quiet)

    def kill(self) -> None:
        """kill -9 of all that it is: the node is gone."""
        for pid in members(self.process.pid):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        end_session(self.process.pid)
        self.process.wait()


def second(cpus: int, **environment: str) -> Node:
    """A node that joins the head."""
    own = (
        f"--temp-dir={SECOND_TEMPORARY}"  # or each node takes away the packages that the other one runs from
    )
    return Node(SECOND, 21200, f"--address={HEAD}:{PORT}", f"--num-cpus={cpus}", own, **environment)


@contextmanager
def cluster(cpus: int, *, dashboard: bool = False, **environment: str) -> Iterator[Node]:
    """Head and second node, with so many CPUs each; yields the second once both are there."""
    shown = [f"--include-dashboard={'true' if dashboard else 'false'}"]
    shown += [f"--dashboard-host={HEAD}", f"--dashboard-port={DASHBOARD_PORT}"] if dashboard else []
    head = Node(HEAD, 21000, "--head", f"--port={PORT}", f"--num-cpus={cpus}", *shown, **environment)
    try:
        time.sleep(5)
        other = second(cpus, **environment)
        wait_for_nodes(2)
        yield other
    finally:
        head.kill()


def wait_for_nodes(count: int) -> None:
    """Until so many nodes are alive."""
    code = (
        f"import ray, time; ray.init('{HEAD}:{PORT}', _node_ip_address='{HEAD}', logging_level='ERROR')\n"
        f"while sum(node['Alive'] for node in ray.nodes()) < {count}: time.sleep(0.2)"
    )
    subprocess.run([sys.executable, "-c", code], env=os.environ | ENVIRONMENT, check=True, timeout=120)
