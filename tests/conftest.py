"""Fixtures of all tests, and the path to helpers that several folders of tests share."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest_plugins = ["tests.support.session", "tests.support.marks", "pytester"]
sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent / "pipeline")]


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator:
    """How a real S3 server is reached (`pipeline.storage.Storage`); it holds the bucket `s3.BUCKET`."""
    from s3 import Server

    with Server(tmp_path_factory.mktemp("s3") / "data") as server:
        yield server.storage
