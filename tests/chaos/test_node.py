"""kill -9 of a node of a cluster of two on this host."""

import random
import time

import pytest

from tests.chaos.campaign import files, long, prove, wait_until
from tests.support.nodes import ENVIRONMENT, HEAD, IMPATIENT, PORT, cluster, second
from tests.support.processes import finish, start

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(1200)]


@long
def test_a_node_is_killed_and_another_one_comes(made):
    """Actors of one node cannot all stand on the other: what is lost waits for the node that replaces it."""
    chance, output = random.Random(11), made.folder / "node"
    with cluster(cpus=1, **IMPATIENT) as node:
        command = made.command(str(output), f"cluster.address={HEAD}:{PORT}")
        process = start(command, made.folder, **ENVIRONMENT, **IMPATIENT)
        moment = chance.randrange(2, len(made.names) // 2)
        assert wait_until(lambda: files(output) >= moment, process), process.communicate()
        node.kill()
        at, began = files(output), time.monotonic()
        other = second(cpus=1, **IMPATIENT)
        try:
            done = finish(process)
        finally:
            other.kill()
    assert 0 < at < len(made.names)
    assert done.returncode == 0, done.stderr
    prove(made, output, "node killed", files=at, finished_s=round(time.monotonic() - began, 1))
