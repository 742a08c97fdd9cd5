"""The folder for files that are made once and kept between runs."""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path


def cache_folder() -> Path:
    """Where what is made on the spot is kept: `$XDG_CACHE_HOME/trimline` or `~/.cache/trimline`."""
    root = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(root) / "trimline"


def made_once(folder: Path, make: Callable[[Path], None]) -> Path:
    """The folder, made whole or not at all, also if several processes do it at once."""
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
        made = Path(temporary) / "made"
        made.mkdir()
        make(made)
        try:
            made.rename(folder)
        except OSError:  # another process was first
            if not folder.is_dir():
                raise
    return folder
