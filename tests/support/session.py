"""What all tests of a session share, in however many parallel workers: one cache, one Ray each."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from typing import Any

import pytest

CACHE = pytest.StashKey[str]()


def pytest_configure(config: pytest.Config) -> None:
    """Make the cache of `demo:` checkpoints, before the workers start: they and all commands inherit it.

    Two workers that make the same checkpoint at once are safe: each is written beside its place and renamed.
    """
    if hasattr(config, "workerinput"):
        return
    config.stash[CACHE] = os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp(prefix="trimline-tests-")
    # threads that spin while they wait for one another take the cores from those that they wait for
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if getattr(config.option, "numprocesses", None):
        os.environ.setdefault("OMP_NUM_THREADS", "1")  # each worker has a core


def pytest_unconfigure(config: pytest.Config) -> None:
    if (folder := config.stash.get(CACHE, None)) is not None:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def ray() -> Iterator[None]:
    """Ray in this process: started by the first run that needs it, and stopped with the session.

    It is not imported here: it reads its way of authentication when it is, and `start_ray` sets that.
    """
    yield
    import ray

    ray.shutdown()


@pytest.fixture(scope="session")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """`tests.support.reference.Reference`: an input, and the output of an undisturbed run."""
    from tests.support.reference import make

    return make(tmp_path_factory.mktemp("reference"))


@pytest.fixture(scope="session")
def rich(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """`tests.support.rich.Rich`: one run of the command with all that several tests look at."""
    from tests.support.rich import make

    return make(tmp_path_factory.mktemp("rich"))
