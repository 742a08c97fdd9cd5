"""Test a cluster started by Trimline: who may join it, and which error it reports."""

import errno
import os
import subprocess
import sys

import pytest

from pipeline.run.cluster.resources import Cluster
from pipeline.run.cluster.start import start_ray
from pipeline.run.flow import _original_error

START = """
import os, ray
from pipeline.run.cluster.start import start_ray
from pipeline.run.cluster.resources import Cluster
start_ray(Cluster(num_cpus=2), "cpu")
print(ray.get_runtime_context().gcs_address, os.environ["RAY_AUTH_TOKEN"])
assert not {"RAY_enable_export_api_write"} & os.environ.keys()
workers = ray.get(ray.remote(num_cpus=0.1)(lambda: dict(os.environ)).remote())
assert "RAY_enable_export_api_write" not in workers
input()
"""
JOIN = """
import os, sys, ray
from ray.exceptions import AuthenticationError
try:
    ray.init(sys.argv[1], _node_ip_address="127.0.0.1", log_to_driver=False)
except (AuthenticationError, ConnectionError, RuntimeError) as error:
    sys.exit(f"refused: {type(error).__name__}")
print("joined", ray.cluster_resources()["CPU"])
"""


@pytest.mark.slow
def test_our_cluster_refuses_callers_without_its_token(tmp_path):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment |= {
        "HOME": str(tmp_path),
        "RAY_enable_export_api_write": "1",
        "PYTHONPATH": os.pathsep.join(sys.path),
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # the callers are on the loopback address, too
    }
    with subprocess.Popen(
        [sys.executable, "-c", START],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    ) as cluster:
        address, token = cluster.stdout.readline().split()
        try:
            outcomes = {
                name: join(address, environment | credentials) for name, credentials in callers(token).items()
            }
        finally:
            cluster.communicate("\n")
    assert len(token) == 64
    assert outcomes["with the token"].startswith("joined 2")
    assert all(
        outcome.startswith("refused") for name, outcome in outcomes.items() if name != "with the token"
    ), outcomes


def callers(token):
    return {
        "with the token": {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token},
        "another token": {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64},
    }


def join(address, environment):
    process = subprocess.run(
        [sys.executable, "-c", JOIN, address], env=environment, capture_output=True, text=True, timeout=300
    )
    return (process.stdout.strip() or process.stderr.strip().rpartition("\n")[2])[:200]


@pytest.mark.usefixtures("ray")
def test_a_stages_error_is_reported_without_rays_advice():
    import ray

    def full(batch):
        try:
            raise ValueError("an inner reason")
        except ValueError as inner:
            raise OSError(errno.ENOSPC, "No space left on device") from inner

    start_ray(Cluster(), "cpu")
    with pytest.raises(ray.exceptions.RayError) as caught:
        ray.data.range(1).map_batches(full).materialize()
    assert _original_error(caught.value) == "OSError: [Errno 28] No space left on device"
