"""These packages for a cluster whose nodes do not have them: Ray copies a folder to every node."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).resolve().parents[3]
NAMES = ("trim", "pipeline", "jobs", "conf")


@contextmanager
def packages(**more: str) -> Iterator[str]:
    """A folder with the packages that this process runs from, as Ray's `working_dir`; `more`: other folders.

    Ray names its copy by what is in it, so that a cluster is sent the same version once.
    """
    with TemporaryDirectory(prefix="trimline-") as folder:
        for name, place in {**{name: str(ROOT / name) for name in NAMES}, **more}.items():
            ignored = shutil.ignore_patterns("__pycache__", "*.pyc")
            shutil.copytree(place, Path(folder) / name, ignore=ignored)
        yield folder
