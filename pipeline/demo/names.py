"""The `demo:` names that a configuration may use in the place of paths."""

import dataclasses
import importlib.util
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipeline.errors import ConfigError

PICTURES = "demo:pictures"
TRAINED = "demo:model/"
RANDOM = "demo:random/"
SIZED = "demo:random_"  # and a name of `geometry.SIZES`
PARTS = ("llava", "clip")
SCENES = 24  # of the test split, beside the photographs
_RANDOM_VERSION = 2  # part of the cache folder's name; raise it with every change of what is made
_SIZED_VERSION = 1
_PICTURES_VERSION = 4
_QUESTIONS = Path(__file__).with_name("photographs.json")
_CHECKPOINT = Path(__file__).with_name("checkpoint")


def cache_folder() -> Path:
    """Where what is made on the spot is kept: `$XDG_CACHE_HOME/trimline` or `~/.cache/trimline`."""
    root = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(root) / "trimline"


def resolve_source(source: Any) -> Any:
    """The source with a `demo:` path replaced by the folder that it stands for."""
    if source.path == PICTURES:
        return dataclasses.replace(source, path=str(pictures()))
    return source


def resolve_checkpoint(name: str) -> Path:
    """The folder of a `demo:` checkpoint: the trained one that is shipped, or one with random weights.

    Raises ConfigError if there is none of that name.
    """
    kind, _, part = name.rpartition("/")
    if part in PARTS and f"{kind}/" == TRAINED:
        if not (_CHECKPOINT / part).is_dir():
            raise ConfigError(f"model: {name} is not part of this installation; trimline train_demo makes it")
        return _CHECKPOINT / part
    if part in PARTS and f"{kind}/" == RANDOM:
        return random_checkpoint() / part
    if part in PARTS and kind.startswith(SIZED):
        return _sized_checkpoint(kind.removeprefix(SIZED)) / part
    there = ", ".join(kind + part for kind in (TRAINED, RANDOM) for part in PARTS)
    raise ConfigError(f"model: {name!r} is no demo checkpoint; there are {there}")


def random_checkpoint() -> Path:
    """The folder of the checkpoint with random weights, seed 0; made if missing, in some seconds."""
    folder = cache_folder() / f"random-v{_RANDOM_VERSION}"
    if not folder.is_dir():
        from pipeline.demo.random_checkpoint import make

        make(folder)
    return folder


def _sized_checkpoint(size: str) -> Path:
    """The folder of random weights of LLaVA's sizes, some gigabytes in the cache."""
    from pipeline.demo.geometry import SIZES, make

    if size not in SIZES:
        raise ConfigError(f"model: {SIZED}{size} is none of {', '.join(SIZED + name for name in SIZES)}")
    return made_once(
        cache_folder() / f"random-{size}-v{_SIZED_VERSION}", lambda folder: make(folder, SIZES[size])
    )


def pictures() -> Path:
    """A folder of `scenes/` (test split) and `photographs/` (scikit-image's), with questions; made once.

    Raises:
        ConfigError: scikit-image is not installed.
    """
    return made_once(cache_folder() / f"pictures-v{_PICTURES_VERSION}", _make_pictures)


def _make_pictures(folder: Path) -> None:
    photographs = _photographs()
    (folder / "photographs").mkdir()
    for name, asked in json.loads(_QUESTIONS.read_text()).items():
        shutil.copyfile(photographs / name, folder / "photographs" / name)
        (folder / "photographs" / name).with_suffix(".json").write_text(json.dumps({"questions": asked}))
    from pipeline.demo.scenes import make_sample

    (folder / "scenes").mkdir()
    for index in range(SCENES):
        sample = make_sample("test", 0, index)
        (folder / "scenes" / f"{sample.key}.jpg").write_bytes(sample.jpeg())
        (folder / "scenes" / f"{sample.key}.json").write_text(json.dumps(sample.sidecar()))


def _photographs() -> Path:
    package = importlib.util.find_spec("skimage")
    if package is None or package.origin is None:
        raise ConfigError(
            f"source.path={PICTURES} shows scikit-image's photographs, too: pip install 'trimline[demo]', "
            "or name a folder of your own"
        )
    return Path(package.origin).parent / "data"


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
