"""Fixtures of the command line's tests."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.commands import Annotate
from tests.support.tars import jpeg


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """What `demo:` names stand for is made here, once, and not in the user's own cache."""
    folder = tmp_path_factory.mktemp("cache")
    before = os.environ.get("XDG_CACHE_HOME")
    os.environ["XDG_CACHE_HOME"] = str(folder)
    yield folder / "trimline"
    os.environ.pop("XDG_CACHE_HOME")
    if before is not None:
        os.environ["XDG_CACHE_HOME"] = before


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
    """`trimline annotate` in this process, without Ray; it reads `pictures/` unless told otherwise."""
    monkeypatch.setattr("ray.init", _no_ray)
    return Annotate(capfd)
