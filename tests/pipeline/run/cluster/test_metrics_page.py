"""Test that metrics are open to other machines only where it is asked for."""

import http.client
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

import pytest

from pipeline.run.cluster.metrics_page import serve_metrics
from pipeline.run.config import RunOptions
from pipeline.support.errors import ConfigError
from tests.support.processes import WITHOUT_RAY, listening

CLUSTER = """
import sys
from pipeline.run.cluster.start import start_ray
from pipeline.run.cluster.resources import Cluster
start_ray(Cluster(num_cpus=2), "cpu", int(sys.argv[1]), "0.0.0.0")
print("started", flush=True)
input()
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def read(url: str, seconds: float = 60) -> str:
    """Read a page; tried again until it is there."""
    end = time.monotonic() + seconds
    while True:
        try:
            with urllib.request.urlopen(url, timeout=10) as page:
                return page.read().decode()
        except (OSError, http.client.HTTPException):
            if time.monotonic() > end:
                raise
        time.sleep(0.2)


@pytest.mark.slow
def test_metrics_are_served_to_others_if_asked(monkeypatch):
    port = free_port()
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    environment = os.environ | WITHOUT_RAY | {"HTTP_PROXY": "http://127.0.0.1:1", "no_proxy": ""}
    command = [sys.executable, "-c", CLUSTER, str(port)]
    with subprocess.Popen(command, env=environment, **pipes) as cluster:
        assert cluster.stdout.readline() == "started\n"
        assert "ray_" in read(f"http://127.0.0.2:{port}/metrics")
        with pytest.raises(urllib.error.HTTPError, match="404"):
            urllib.request.urlopen(f"http://127.0.0.2:{port}/other")
        assert ("00000000", port) in listening(cluster.pid)
        cluster.communicate("\n")


def test_without_ray_there_is_no_page_but_an_answer():
    server = serve_metrics("::1", 0, free_port())
    with pytest.raises(urllib.error.HTTPError, match="503"):
        urllib.request.urlopen(f"http://[::1]:{server.server_address[1]}/metrics")
    server.shutdown()
    server.server_close()


def test_an_address_that_cannot_be_used_is_one_line():
    with socket.socket() as taken:
        taken.bind(("127.0.0.3", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=rf"metrics_host=127.0.0.3 metrics_port={port}: .*in use"):
            serve_metrics("127.0.0.3", port, 1)
    with pytest.raises(ConfigError, match=r"metrics_host=nowhere\.invalid metrics_port=1: "):
        serve_metrics("nowhere.invalid", 1, 1)


@pytest.mark.parametrize("host", ["a\0b", "ü" * 80, "[::]"])
def test_an_address_that_is_none_is_refused_in_one_line(host):
    with pytest.raises(ConfigError, match="metrics_host="):
        serve_metrics(host, 19555, 1)


def test_an_empty_address_is_refused():
    with pytest.raises(ConfigError, match="metrics_host must not be empty"):
        RunOptions(metrics_host="")
