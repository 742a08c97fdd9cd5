"""Copies this installation's packages to cluster nodes that lack them."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).resolve().parents[3]
NAMES = ("trim", "pipeline", "jobs", "conf")


@contextmanager
def packages(**more: str) -> Iterator[str]:
    """Make a folder with the packages of this installation, for Ray to copy to every node.

    Ray calls it `working_dir`, and names the copy by a hash of its content: a cluster gets the same version
    only once.

    Args:
        more: further folders, by their names in the copy.
    """
    with TemporaryDirectory(prefix="trimline-") as folder:
        for name, source in {**{name: str(ROOT / name) for name in NAMES}, **more}.items():
            ignored = shutil.ignore_patterns("__pycache__", "*.pyc")
            shutil.copytree(source, Path(folder) / name, ignore=ignored)
        yield folder
