"""The `demo:` names that a configuration may use in the place of paths."""

import dataclasses
import importlib.util
import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from pipeline.errors import ConfigError

PHOTOGRAPHS = "demo:photographs"
RANDOM = "demo:random/"
_RANDOM_VERSION = 1  # part of the cache folder's name; raise it with every change of what is made
_QUESTIONS = Path(__file__).with_name("photographs.json")


def cache_folder() -> Path:
    """Where what is made on the spot is kept: `$XDG_CACHE_HOME/trimline` or `~/.cache/trimline`."""
    root = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(root) / "trimline"


def resolve_source(source: Any) -> Any:
    """The source with a `demo:` path replaced by the folder that it stands for."""
    if source.path == PHOTOGRAPHS:
        return dataclasses.replace(source, path=str(photographs()))
    return source


def random_checkpoint() -> Path:
    """The folder of the checkpoint with random weights, seed 0; made if missing, in some seconds."""
    folder = cache_folder() / f"random-v{_RANDOM_VERSION}"
    if not folder.is_dir():
        from pipeline.demo.random_checkpoint import make

        make(folder)
    return folder


def photographs() -> Path:
    """A folder with the photographs of scikit-image and questions about them, made if missing.

    Raises:
        ConfigError: scikit-image is not installed.
    """
    questions: dict[str, list[str]] = json.loads(_QUESTIONS.read_text())
    folder = cache_folder() / "photographs-v1"
    if folder.is_dir():
        return folder
    package = importlib.util.find_spec("skimage")
    if package is None or package.origin is None:
        raise ConfigError(
            f"source.path={PHOTOGRAPHS} shows scikit-image's photographs: pip install 'trimline[demo]', "
            "or name a folder of your own"
        )
    pictures = Path(package.origin).parent / "data"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
        made = Path(temporary) / "made"
        made.mkdir()
        for name, asked in questions.items():
            shutil.copyfile(pictures / name, made / name)
            (made / name).with_suffix(".json").write_text(json.dumps({"questions": asked}))
        try:
            made.rename(folder)
        except OSError:  # another process was first
            if not folder.is_dir():
                raise
    return folder
