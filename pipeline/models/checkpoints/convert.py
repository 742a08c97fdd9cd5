"""Converts a checkpoint of LLaVA's original layout to Hugging Face's, tensor by tensor.

It does what transformers' convert_llava_weights_to_hf.py does, with the names of the published llava-hf
checkpoints: `<image>` and `<pad>` are added to the vocabulary, whose tables grow to a multiple of 64 rows.
The new rows are the mean of the others, so that none of them is ever the most likely.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from pipeline.models.checkpoints.files import read_config, weight_files
from pipeline.models.checkpoints.fit import IMAGE_TOKEN
from pipeline.models.checkpoints.folders import resolve
from pipeline.models.checkpoints.kinds import is_original
from pipeline.models.checkpoints.layouts import language_name, projector_name, published_name, tower_name
from pipeline.models.checkpoints.llama_tokenizer import write_tokenizer
from pipeline.models.checkpoints.original import pads, translated
from pipeline.models.checkpoints.sharded import ShardWriter
from pipeline.models.preprocess import settings_of
from pipeline.support.cache import make_once
from pipeline.support.errors import ConfigError

_PAD = "<pad>"
_ROWS = 64  # pad the tables to a multiple of so many rows
_TABLES = ("model.embed_tokens.weight", "lm_head.weight")
# No part of a LLaVA: buffers of older Llamas, and CLIP's other parts, which TRIM's authors save, too.
_LEFT_OUT = re.compile(r"\.inv_freq$|^model\.vision_tower\.")


@dataclass(frozen=True, kw_only=True)
class Conversion:
    """Configures `trimline convert`: `from`, `to`, and as in the group `model`.

    `clip` null: the one that the checkpoint names itself.
    """

    source: str
    target: str
    clip: str | None = None
    allow_pickle: bool = False


def convert(options: Conversion) -> None:
    """Write the folder `options.target`, whole or not at all; some 1 GiB is in memory at a time.

    Raises:
        ConfigError: the source is not in the original layout or does not fit its CLIP, the target exists.
    """
    llava = resolve(options.source, options.allow_pickle)
    config = read_config(llava)
    if not is_original(config):
        raise ConfigError(f"from: {options.source} is not in LLaVA's original layout (no mm_vision_tower)")
    clip = resolve(options.clip or str(config["mm_vision_tower"]), options.allow_pickle)
    target = Path(options.target).expanduser()
    if target.exists():
        raise ConfigError(f"to: {options.target} is there already; name a new folder")
    _require_projector(llava)
    make_once(target, lambda folder: _write(llava, clip, folder, pads(llava, config)))


def _require_projector(llava: Path) -> None:
    for file in weight_files(llava):
        with safe_open(file, framework="pt") as tensors:
            if any(projector_name(name) for name in tensors.keys()):  # noqa: SIM118 - not a dict
                return
    raise ConfigError(f"{llava} holds no projector weights (model.mm_projector)")


def _write(llava: Path, clip: Path, folder: Path, padded: bool) -> None:
    config = translated(llava, clip)
    del config["mm_vision_tower"]
    text = config["text_config"]
    tokenizer = write_tokenizer(llava, folder, text, added=(IMAGE_TOKEN, _PAD))
    text["vocab_size"] = -(-max(text["vocab_size"], tokenizer.get_vocab_size()) // _ROWS) * _ROWS
    config["image_token_index"] = tokenizer.token_to_id(IMAGE_TOKEN)
    text["pad_token_id"] = tokenizer.token_to_id(_PAD)
    crop = {"image_processor_type": "LlavaImageProcessor", "do_pad": padded}
    processor = {
        "processor_class": "LlavaProcessor",
        "image_token": IMAGE_TOKEN,
        "patch_size": config["vision_config"]["patch_size"],
        "num_additional_image_tokens": 1,
        "vision_feature_select_strategy": config["vision_feature_select_strategy"],
    }
    small = {
        "config.json": config,
        "preprocessor_config.json": {**settings_of(clip), **crop},
        "processor_config.json": processor,
    }
    for name, content in small.items():
        (folder / name).write_text(json.dumps(content, indent=1))
    generation = llava / "generation_config.json"
    if generation.is_file():
        (folder / generation.name).write_bytes(generation.read_bytes())
    writer = ShardWriter(folder)
    for name, tensor in _renamed(llava, clip, text["vocab_size"]):
        writer.add(name, tensor)
    writer.close()


def _renamed(llava: Path, clip: Path, rows: int) -> Iterator[tuple[str, Tensor]]:
    """Yield all tensors of the new checkpoint, with the CLIP's tower if the old one has none."""
    has_tower = False
    for name, tensor in _tensors(llava):
        if (published := published_name(name)) is not None:
            has_tower = has_tower or tower_name(name) is not None
            yield published, _grown(tensor, rows) if language_name(name) in _TABLES else tensor
        elif not _LEFT_OUT.search(name):
            raise ConfigError(f"{llava}: {name} is no weight of a LLaVA-1.5")
    if not has_tower:
        for name, tensor in _tensors(clip):
            if tower_name(name) is not None and (published := published_name(name)) is not None:
                yield published, tensor


def _tensors(folder: Path) -> Iterator[tuple[str, Tensor]]:
    for file in weight_files(folder):
        with safe_open(file, framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118 - not a dict
                yield name, tensors.get_tensor(name)


def _grown(table: Tensor, rows: int) -> Tensor:
    """Append rows to a table, each the mean of the table's rows."""
    mean = table.mean(0, dtype=torch.float32).to(table.dtype)
    return torch.cat([table, mean.expand(rows - len(table), -1)])
