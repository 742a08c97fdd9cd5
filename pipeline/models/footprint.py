"""Estimates the memory that a model takes from the headers of its weights, before loading any."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pipeline.models.checkpoints.files import read_config
from pipeline.models.checkpoints.kinds import kind_of
from pipeline.models.checkpoints.layouts import language_name, projector_name, tower_name
from pipeline.models.checkpoints.tensors import locate
from pipeline.models.checkpoints.vision_tower import tower_folder
from pipeline.models.config import Model
from pipeline.models.sizes import BYTES_OF, shape_of_config
from pipeline.support.errors import ConfigError
from pipeline.support.memory import available

GIB = 1 << 30
PROCESS_BYTES = GIB // 2  # an actor before its weights: Python, torch, transformers and Ray
_PROMPT = 256  # text tokens of a request: a guess, small beside its image


@dataclass(frozen=True)
class Footprint:
    """Holds the bytes that an actor takes at least: weights, and keys and values of requests in work."""

    weights: int
    cache: int = 0

    @property
    def total(self) -> int:
        return self.weights + self.cache


def of_generate(llava: Path, dtype: str, cache_bytes: int = 0) -> Footprint:
    """Estimate language model and projector in `dtype`, and `cache_bytes` of keys and values."""
    count = _count(llava, lambda name: (language_name(name) or projector_name(name)) is not None)
    return Footprint(count * BYTES_OF[dtype], cache_bytes)


def of_encode(llava: Path, clip: Path | None, needs: frozenset[str]) -> Footprint:
    """Estimate the towers in float32, as they are loaded, and the projector if a reducer reads embeddings."""
    kind = kind_of(read_config(llava))
    count = _count(tower_folder(llava, clip), lambda name: tower_name(name) is not None)
    if clip is not None and "metric" in needs:
        count += _count(clip, lambda name: name.startswith(kind.head))
    if clip is not None and "text" in needs:
        count += _count(clip, lambda name: name.startswith("text_"))
    if "embeddings" in needs:
        count += _count(llava, lambda name: projector_name(name) is not None)
    return Footprint(4 * count)


def of_run(
    llava: Path,
    clip: Path | None,
    *,
    needs: frozenset[str],
    dtype: str,
    tokens: int,
    cache_gib: float | None,
    actors: dict[str, int],
) -> dict[str, Footprint]:
    """Estimate what the actors of a run on one machine take at least, by stage.

    Args:
        needs: the fields of VisualTokens that the reducers read.
        tokens: of the longest request's image and answer. The transformers engine holds the keys and values
            of one such request at least; the size of its batches is its own configuration.
        cache_gib: what the engine reserves for keys and values, if it does.
        actors: their number by stage.
    """
    per_token = shape_of_config(read_config(llava)).kv_bytes(dtype)
    cache = (tokens + _PROMPT) * per_token if cache_gib is None else int(cache_gib * GIB)
    single = {"encode": of_encode(llava, clip, needs), "generate": of_generate(llava, dtype, cache)}
    return {
        name: Footprint(actors[name] * (part.weights + PROCESS_BYTES), actors[name] * part.cache)
        for name, part in single.items()
    }


def room_of(device: str) -> tuple[int | None, str]:
    """Return the free bytes of a `device` (`auto`, `cpu`, `cuda`), and that memory's name."""
    import torch

    if device == "cpu" or not torch.cuda.is_available():
        return available(), "this machine"
    return torch.cuda.mem_get_info()[0], "the GPU"


def require_room(model: Model, parts: dict[str, Footprint], room: int | None, where: str) -> None:
    """Raise ConfigError if the parts need more memory than there is, unless `model.check_memory` is false.

    Args:
        parts: by the names that the message gives them.
        room: free bytes; None if unknown.
        where: whose memory it is: "this machine", "the GPU".
    """
    needed = sum(part.total for part in parts.values())
    if not model.check_memory or room is None or needed <= room:
        return
    listed = ", ".join(f"{name} {_shown(part)}" for name, part in parts.items())
    raise ConfigError(
        f"model.path={model.path}: some {needed / GIB:.1f} GiB of memory are needed ({listed}), but {where} "
        f"has {room / GIB:.1f} GiB left; model.check_memory=false tries all the same"
    )


def _shown(part: Footprint) -> str:
    """Format as `13.2 GiB`, or as `13.2 + 0.4 GiB` with a cache."""
    cache = f" + {part.cache / GIB:.1f}" if part.cache else ""
    return f"{part.weights / GIB:.1f}{cache} GiB"


def _count(folder: Path, wanted: Callable[[str], bool]) -> int:
    """Count the numbers in the tensors whose names are wanted."""
    return sum(where.count for name, where in locate(folder).items() if wanted(name))
