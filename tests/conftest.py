"""Fixtures of all tests."""

from collections.abc import Iterator

import pytest

pytest_plugins = ["tests.support.session", "tests.support.marks", "pytester"]


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator:
    """How a real S3 server is reached (`pipeline.storage.uris.Storage`); it holds the bucket `s3.BUCKET`."""
    from tests.support.s3 import Server

    with Server(tmp_path_factory.mktemp("s3") / "data") as server:
        yield server.storage
