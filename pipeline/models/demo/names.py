"""Resolves the `demo:` names that a configuration may use instead of paths of checkpoints."""

from pathlib import Path

from pipeline.support.cache import cached
from pipeline.support.errors import ConfigError

TRAINED = "demo:model/"
RANDOM = "demo:random/"
SIZED = "demo:random_"  # a name of `sized_weights.SIZES` follows
PARTS = ("llava", "clip")
_RANDOM_VERSION = 2  # part of the cache folder's name; raise it with every change of the weights
_SIZED_VERSION = 1
_CHECKPOINT = Path(__file__).with_name("checkpoint")


def resolve_checkpoint(name: str) -> Path:
    """Return the folder of a `demo:` checkpoint: the trained one, or one with random weights.

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
    names = ", ".join(kind + part for kind in (TRAINED, RANDOM) for part in PARTS)
    raise ConfigError(f"model: {name!r} is no demo checkpoint; there are {names}")


def random_checkpoint() -> Path:
    """Return the folder of the checkpoint with random weights, seed 0; made if missing, in some seconds."""

    def make(target: Path) -> None:
        from pipeline.models.demo.random_weights import make_random

        make_random(target)

    return cached(f"random-v{_RANDOM_VERSION}", make)


def _sized_checkpoint(size: str) -> Path:
    """Return the folder of random weights of LLaVA's sizes, some gigabytes in the cache."""
    from pipeline.models.demo.sized_weights import SIZES, make_sized

    if size not in SIZES:
        raise ConfigError(f"model: {SIZED}{size} is none of {', '.join(SIZED + name for name in SIZES)}")
    return cached(f"random-{size}-v{_SIZED_VERSION}", lambda target: make_sized(target, SIZES[size]))
