"""Plans what an engine may take of its GPU's memory, from what is free when it is loaded.

CLIP may come onto the same GPU later, so that its part is left free.
"""

from pathlib import Path

import torch

from pipeline.models.checkpoints.files import read_config
from pipeline.models.config import Decoding, Model
from pipeline.models.footprint import GIB, of_encode, of_generate
from pipeline.models.sizes import BYTES_OF, shape_of_config
from pipeline.support.errors import ConfigError

_CLIP_PARTS = frozenset({"metric", "text", "embeddings"})
_RESERVE = 2 * GIB  # CUDA's own, CLIP's passes, the projector, and what the allocator cannot give twice


def free_fraction(
    model: Model, folders: tuple[Path, Path | None], *, gpus: int = 1, is_quantized: bool = False
) -> float:
    """Compute the fraction of its GPUs' memory that vLLM may take: what is free, without CLIP and a reserve.

    Args:
        is_quantized: vLLM makes the weights smaller by itself, and refuses those that have no room.

    Raises:
        ConfigError: that is less than the weights.
    """
    free, total = min(torch.cuda.mem_get_info(index) for index in range(gpus))
    room = free - _RESERVE - _clip_bytes(model, folders)
    weights = of_generate(folders[0], model.generate_dtype).weights // gpus
    if model.check_memory and not is_quantized and room <= weights:
        raise ConfigError(
            f"model.path={model.path}: {weights / GIB:.1f} GiB of weights do not fit beside CLIP and "
            f"{_RESERVE / GIB:.0f} GiB for the rest, where {free / GIB:.1f} GiB of a GPU are free; more "
            "engine.tensor_parallel makes them smaller, and model.check_memory=false tries all the same"
        )
    return max(0.01, room / total)


def require_budget(
    model: Model,
    decoding: Decoding,
    folders: tuple[Path, Path | None],
    *,
    token_budget: int,
    max_batch: int,
) -> None:
    """Refuse batches of the transformers engine whose keys and values have no room on the GPU.

    A full batch has `token_budget` tokens in its prompts, and a whole answer in each of `max_batch` rows.
    While a step appends to a layer's keys and values, the layer is there twice.

    Raises:
        ConfigError: it names the largest token_budget that fits.
    """
    if not model.check_memory:
        return
    free, _ = torch.cuda.mem_get_info()
    shape = shape_of_config(read_config(folders[0]))
    weights = of_generate(folders[0], model.generate_dtype).weights
    room = free - _RESERVE - _clip_bytes(model, folders) - weights
    per_token = shape.kv_bytes(model.generate_dtype) * (shape.layers + 1) / shape.layers
    answers = max_batch * decoding.max_new_tokens
    needed = int((token_budget + answers) * per_token)
    if needed <= room:
        return
    fits = int(room / per_token) - answers
    advice = f"engine.token_budget={fits} fits" if fits > 0 else "a smaller engine.max_batch needs less"
    raise ConfigError(
        f"engine.token_budget={token_budget}: keys and values of a full batch take {needed / GIB:.1f} GiB, "
        f"and {max(0, room) / GIB:.1f} GiB of the GPU are left beside {weights / GIB:.1f} GiB of weights; "
        f"{advice}, and model.check_memory=false tries all the same"
    )


def _clip_bytes(model: Model, folders: tuple[Path, Path | None]) -> int:
    """Estimate CLIP with all its parts in its dtype on the GPU."""
    return of_encode(*folders, _CLIP_PARTS).weights // 4 * BYTES_OF[model.encode_dtype]
