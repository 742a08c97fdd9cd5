"""Finds the user's cache folder, and makes folders once for several processes."""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path


def cache_folder() -> Path:
    """Return the user's cache of generated files: `$XDG_CACHE_HOME/trimline` or `~/.cache/trimline`."""
    root = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(root) / "trimline"


def make_once(folder: Path, make: Callable[[Path], None]) -> Path:
    """Return `folder`, after `make` has filled it if it did not exist.

    It appears complete or not at all. Processes that begin at the same time each fill a temporary folder
    beside it; the first to rename its own wins, and the others remove theirs. There is no lock, which a
    network file system may not have, so `make` must write the same content in each process.
    """
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as temporary:
        target = Path(temporary) / "folder"
        target.mkdir()
        make(target)
        try:
            target.rename(folder)
        except OSError:  # another process was first
            if not folder.is_dir():
                raise
    return folder
