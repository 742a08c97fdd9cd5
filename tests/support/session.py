"""Share one checkpoint cache among all test workers, and one Ray among the tests of each."""

import ctypes
import os
import shutil
import tempfile
from collections.abc import Iterator
from typing import Any

import pytest

CACHE = pytest.StashKey[str]()


def pytest_configure(config: pytest.Config) -> None:
    """Create the cache of `demo:` checkpoints before the workers start, so that all processes inherit it.

    Two workers may make the same checkpoint at once: each writes a temporary folder and renames it.
    """
    if hasattr(config, "workerinput"):
        return
    config.stash[CACHE] = os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp(prefix="trimline-tests-")
    # waiting threads must not spin: they would keep the cores from the threads that they wait for
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # Ray's workers have a niceness of 15: beside a busy process of others they would get no time to speak of
    os.environ.setdefault("RAY_worker_niceness", "0")
    if getattr(config.option, "numprocesses", None):
        os.environ.setdefault("OMP_NUM_THREADS", "1")  # each worker has a core


def pytest_unconfigure(config: pytest.Config) -> None:
    if (folder := config.stash.get(CACHE, None)) is not None:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session", autouse=True)
def libraries(request: pytest.FixtureRequest) -> None:
    """Import the heavy libraries before a worker's first test, whose time they would count for."""
    if hasattr(request.config, "workerinput"):
        from transformers import CLIPModel, LlavaForConditionalGeneration  # noqa: F401


@pytest.fixture
def nothing_kept() -> None:
    """Give back what actors in this process have kept of freed memory: a limit does not count it."""
    library = ctypes.CDLL(None)
    if hasattr(library, "malloc_trim"):
        library.mallopt(-3, 128 << 10)  # M_MMAP_THRESHOLD
        library.malloc_trim(0)


@pytest.fixture(scope="session")
def ray() -> Iterator[None]:
    """Stop Ray at the end of the session; the first run that needs it starts it, and no run lets it go.

    Ray is not imported earlier: it reads its authentication mode at import, and `start_ray` sets that.
    """
    from pipeline.run.cluster.start import keeping_ray

    with keeping_ray():
        yield
    import ray

    ray.shutdown()


@pytest.fixture(scope="session")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Make the `tests.support.reference.Reference`: an input and its undisturbed output."""
    from tests.support.reference import make

    return make(tmp_path_factory.mktemp("reference"))


@pytest.fixture(scope="session")
def rich(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Make the `tests.support.rich.Rich`: one run that several tests inspect."""
    from tests.support.rich import make

    return make(tmp_path_factory.mktemp("rich"))


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Make the `tests.support.installed.Installed`: Trimline as the Dockerfile installs it."""
    from tests.support.installed import make

    return make(tmp_path_factory.mktemp("installed"))
