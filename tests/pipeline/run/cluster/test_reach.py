"""Test what a run says, and when it gives up, if there is no Ray cluster where it looks for one."""

import os
import socket
import subprocess
import sys
from contextlib import contextmanager

import pytest

from tests.support import nodes
from tests.support.processes import WITHOUT_RAY

WAIT = """
import sys
from pipeline.run.cluster.reach import wait_for_cluster
from pipeline.support.errors import TrimlineError
try:
    wait_for_cluster(sys.argv[1], float(sys.argv[2]))
except TrimlineError as error:
    sys.exit(f"{type(error).__name__}: {error}")
"""
pytestmark = pytest.mark.slow


@contextmanager
def silent_server():
    """Accept connections at an address of this host, and never answer."""
    with socket.create_server((nodes.HEAD, 0), backlog=100) as server:
        yield f"{nodes.HEAD}:{server.getsockname()[1]}"


@contextmanager
def nobody():
    """Name an address at which nothing listens."""
    with socket.create_server((nodes.HEAD, 0)) as server:
        place = f"{nodes.HEAD}:{server.getsockname()[1]}"
    yield place


def lines_of_wait(address, connect_s, **environment):
    result = subprocess.run(
        [sys.executable, "-c", WAIT, address, str(connect_s)],
        env=os.environ | WITHOUT_RAY | environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    return result.returncode, result.stderr.splitlines()


@pytest.mark.parametrize(
    ("there", "connect_s", "reason"),
    [(nobody, 2, "connection refused"), (silent_server, 8, "what listens there does not answer as Ray does")],
)
@pytest.mark.parametrize("by", ["cluster.address", "RAY_ADDRESS"])
def test_one_line_says_what_is_waited_for_and_one_that_it_was_in_vain(there, connect_s, reason, by):
    with there() as place:
        address, origin, environment = place, "", {}
        if by == "RAY_ADDRESS":
            address, origin, environment = "auto", ", from RAY_ADDRESS", {"RAY_ADDRESS": place}
        status, lines = lines_of_wait(address, connect_s, **environment)
    assert (status, lines) == (
        1,
        [
            f"waiting up to cluster.connect_s={connect_s} s for a Ray cluster at {place} "
            f"(cluster.address={address}{origin})",
            f"RunError: cluster.address={address}: no Ray cluster answers at {place}{origin}; "
            f"waited cluster.connect_s={connect_s} s: {reason}",
        ],
    )


@pytest.mark.parametrize("address", ["nonsense", "6379", "[::1"])
def test_an_address_that_is_none_is_refused_at_once(address):
    status, lines = lines_of_wait(address, 1000)
    assert (status, len(lines)) == (1, 1)
    assert lines[0].startswith(f"ConfigError: cluster.address={address}: ")


def test_a_head_answers_refuses_those_without_its_token_and_dies():
    folder = f"/tmp/ray-reach-{os.getpid()}"
    place = f"{nodes.HEAD}:{nodes.PORT}"
    options = ("--head", f"--port={nodes.PORT}", "--num-cpus=1", "--include-dashboard=false")
    head = nodes.Node(nodes.HEAD, nodes.PORT - 101, *options, folder=folder)
    try:
        # the head is still starting
        assert lines_of_wait(place, nodes.STARTS_WITHIN_S, **nodes.ENVIRONMENT)[0] == 0
        other = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64}
        status, (*_, last) = lines_of_wait(place, nodes.STARTS_WITHIN_S, **other)
        assert status == 1 and last.startswith(f"RunError: the Ray cluster at {place} refuses this process")
    finally:
        head.kill()
    status, (*_, last) = lines_of_wait(place, 2, **nodes.ENVIRONMENT)
    assert status == 1 and last.startswith(f"RunError: cluster.address={place}: no Ray cluster answers")
