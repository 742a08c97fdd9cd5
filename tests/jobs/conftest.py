"""Fixtures of the command line's tests."""

import os
from pathlib import Path

import pytest

from tests.support.commands import Annotate
from tests.support.tars import jpeg


@pytest.fixture(scope="session")
def cache() -> Path:
    """The folder in which models and pictures named `demo:...` are cached for all tests."""
    return Path(os.environ["XDG_CACHE_HOME"]) / "trimline"


def _no_ray(*_: object, **__: object) -> None:
    pytest.fail("Ray was started")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory that holds three images in `pictures/`."""
    (tmp_path / "pictures").mkdir()
    for index in range(3):
        (tmp_path / "pictures" / f"{index}.jpg").write_bytes(jpeg(index))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def annotate(folder: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Annotate:
    """Run `trimline annotate` in this process, without Ray; by default it reads `pictures/`."""
    monkeypatch.setattr("ray.init", _no_ray)
    monkeypatch.setattr("ray.is_initialized", lambda: False)  # earlier tests may have started it
    return Annotate(capfd)
