"""SIGKILL of one of two nodes of a cluster on this host."""

import random
import time

import pytest

from tests.chaos.campaign import files, long, prove, wait_until
from tests.support.nodes import ENVIRONMENT, HEAD, IMPATIENT, PORT, cluster, second
from tests.support.processes import finish, start

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(1200)]


@long
def test_a_run_survives_a_killed_node_that_is_replaced(campaign):
    """One node is too small for all actors, so the lost ones wait for the replacement."""
    chance, output = random.Random(11), campaign.folder / "node"
    with cluster(cpus=1, **IMPATIENT) as node:
        command = campaign.command(str(output), f"cluster.address={HEAD}:{PORT}")
        process = start(command, campaign.folder, **ENVIRONMENT, **IMPATIENT)
        moment = chance.randrange(2, len(campaign.names) // 2)
        assert wait_until(lambda: files(output) >= moment, process), process.communicate()
        node.kill()
        files_at_kill, began = files(output), time.monotonic()
        replacement = second(cpus=1, **IMPATIENT)
        try:
            result = finish(process)
        finally:
            replacement.kill()
    assert 0 < files_at_kill < len(campaign.names)
    assert result.returncode == 0, result.stderr
    prove(campaign, output, "node killed", files=files_at_kill, finished_s=round(time.monotonic() - began, 1))
