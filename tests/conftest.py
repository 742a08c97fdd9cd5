"""Fixtures that all tests can use."""

from collections.abc import Iterator

import pytest
from hypothesis import settings

# pytest-timeout bounds a test; one slow example on a busy machine is no fault
settings.register_profile("tests", deadline=None)
settings.load_profile("tests")

pytest_plugins = ["tests.support.session", "tests.support.marks", "pytester"]


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator:
    """Start a real S3 server with the bucket `s3.BUCKET`; yields its `pipeline.storage.uris.Storage`."""
    from tests.support.s3 import Server

    with Server(tmp_path_factory.mktemp("s3") / "data") as server:
        yield server.storage
