"""The `demo:` names that a configuration may use in the place of paths."""

from pathlib import Path

from pipeline.support.cache import cache_folder, made_once
from pipeline.support.errors import ConfigError

TRAINED = "demo:model/"
RANDOM = "demo:random/"
SIZED = "demo:random_"  # and a name of `geometry.SIZES`
PARTS = ("llava", "clip")
_RANDOM_VERSION = 2  # part of the cache folder's name; raise it with every change of what is made
_SIZED_VERSION = 1
_CHECKPOINT = Path(__file__).with_name("checkpoint")


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
        from pipeline.models.demo.random_weights import make

        make(folder)
    return folder


def _sized_checkpoint(size: str) -> Path:
    """The folder of random weights of LLaVA's sizes, some gigabytes in the cache."""
    from pipeline.models.demo.sized_weights import SIZES, make

    if size not in SIZES:
        raise ConfigError(f"model: {SIZED}{size} is none of {', '.join(SIZED + name for name in SIZES)}")
    return made_once(
        cache_folder() / f"random-{size}-v{_SIZED_VERSION}", lambda folder: make(folder, SIZES[size])
    )
