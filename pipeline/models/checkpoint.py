"""Tell checkpoints from one another, and refuse those that do not belong together.

Reads JSON and the headers of safetensors files only: no torch, no weights, a few milliseconds.
"""

import hashlib
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.errors import ConfigError
from pipeline.models.layouts import projector_name, tower_name
from pipeline.models.tensors import (
    Located,
    locate,
    read_config,
    read_header,
    read_json,
    read_tensor,
    tensors_of,
    weight_files,
)

IMAGE_TOKEN = "<image>"

SMALL_FILES = (
    "config.json",
    "generation_config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
)
# What a config.json leaves out has the library's default.
CLIP_VISION = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "image_size": 224,
    "patch_size": 32,
}
LLAVA_VISION = {  # of a LLaVA without any vision_config
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "image_size": 336,
    "patch_size": 14,
}
LLAMA = {"hidden_size": 4096, "max_position_embeddings": 2048}
_IMAGE_TOKEN_ID = 32000  # of a config.json that does not say


@dataclass(frozen=True)
class Geometry:
    """Shapes of a LLaVA and its CLIP that fit each other."""

    image_size: int  # S, pixels a side
    patch_size: int  # pixels a side
    num_patches: int  # N
    vision_width: int  # D
    joint_width: int  # P, of CLIP's image-text space
    language_width: int  # H
    feature_layer: int  # vision layers to run to get what LLaVA projects
    max_positions: int  # of the language model


def weights_digest(folder: Path) -> str:
    """A sha256 that changes with the checkpoint, without reading its gigabytes.

    Covers name, size and header of each weight file, the first 64 bytes of each tensor (or a fine-tuned
    model would pass for its base), and the whole of the configuration and tokenizer files.
    Raises ConfigError if there are no safetensors files.
    """
    digest = hashlib.sha256()

    def add(*parts: bytes) -> None:
        for part in parts:
            digest.update(struct.pack("<Q", len(part)) + part)

    for file in weight_files(folder):
        header = read_header(file)
        add(file.name.encode(), str(file.stat().st_size).encode(), header)
        with file.open("rb") as stream:
            for _, entry in tensors_of(header):
                first, stop = entry["data_offsets"]
                stream.seek(8 + len(header) + first)
                add(stream.read(min(64, stop - first)))
    for name in SMALL_FILES:
        if (folder / name).is_file():
            add(name.encode(), (folder / name).read_bytes())
    return digest.hexdigest()


def check_fit(llava: Path, clip: Path) -> Geometry:
    """The geometry of a LLaVA and the CLIP whose vision tower it has.

    Raises ConfigError, naming what is wrong, if either is not what it should be, if they have different
    vision towers, or if the LLaVA reads its tower in a way that is not supported.
    """
    llava_config, clip_config = read_config(llava), read_config(clip)
    _check_kinds(llava, llava_config, clip, clip_config)
    vision = CLIP_VISION | llava_config["vision_config"] if "vision_config" in llava_config else LLAVA_VISION
    clip_vision = CLIP_VISION | clip_config.get("vision_config", {})
    for key in CLIP_VISION:
        if vision[key] != clip_vision[key]:
            raise ConfigError(
                f"vision towers differ: {key} is {vision[key]} in {llava} and {clip_vision[key]} in {clip}"
            )
    feature_layer = _feature_layer(llava, llava_config, vision["num_hidden_layers"])
    _check_weights(llava, clip, feature_layer)
    language = LLAMA | llava_config.get("text_config", {})
    return Geometry(
        image_size=vision["image_size"],
        patch_size=vision["patch_size"],
        num_patches=(vision["image_size"] // vision["patch_size"]) ** 2,
        vision_width=vision["hidden_size"],
        joint_width=clip_config.get("projection_dim", 512),
        language_width=language["hidden_size"],
        feature_layer=feature_layer,
        max_positions=language["max_position_embeddings"],
    )


def _check_kinds(llava: Path, llava_config: dict[str, Any], clip: Path, clip_config: dict[str, Any]) -> None:
    if "mm_vision_tower" in llava_config and "vision_config" not in llava_config:
        raise ConfigError(f"{llava} is in the original LLaVA layout, not in that of Hugging Face")
    for folder, config, kind in ((llava, llava_config, "llava"), (clip, clip_config, "clip")):
        found = config.get("model_type")
        if found != kind:
            blind = kind == "llava" and not any("vision" in key for key in config)
            more = ", and there is nothing of a vision tower in its config.json: text alone" if blind else ""
            raise ConfigError(f"{folder} is no {kind} checkpoint: its model_type is {found!r}{more}")
    if not any((llava / name).is_file() for name in ("tokenizer.json", "tokenizer.model")):
        raise ConfigError(f"{llava} lacks a tokenizer (tokenizer.json or tokenizer.model)")
    if not any((clip / name).is_file() for name in ("tokenizer.json", "vocab.json")):
        raise ConfigError(f"{clip} lacks a tokenizer (tokenizer.json, or vocab.json and merges.txt)")
    _check_image_token(llava, llava_config)


def _check_image_token(folder: Path, config: dict[str, Any]) -> None:
    """The tokenizer's files must know `<image>` by the number that the model has for it.

    In the original layout that number is negative: there prompts are cut at `<image>` before tokenising.
    """
    wanted = config.get("image_token_index", config.get("image_token_id", _IMAGE_TOKEN_ID))
    found = _added_tokens(folder).get(IMAGE_TOKEN)
    if wanted < 0 or found == wanted:
        return
    if found is None:
        raise ConfigError(f"{folder}: the tokenizer has no image token ({IMAGE_TOKEN})")
    raise ConfigError(f"{folder}: {IMAGE_TOKEN} is token {found} of the tokenizer, but {wanted} of the model")


def _added_tokens(folder: Path) -> dict[str, int]:
    """The ids of the tokens that the tokenizer's files name beside its vocabulary."""
    there = {
        name: read_json(folder / name)
        for name in ("added_tokens.json", "tokenizer_config.json", "tokenizer.json")
        if (folder / name).is_file()
    }
    found: dict[str, int] = dict(there.get("added_tokens.json", {}))
    decoder = there.get("tokenizer_config.json", {}).get("added_tokens_decoder", {})
    found |= {entry["content"]: int(number) for number, entry in decoder.items()}
    whole = there.get("tokenizer.json", {})
    return found | {entry["content"]: entry["id"] for entry in whole.get("added_tokens", [])}


def _feature_layer(folder: Path, config: dict[str, Any], num_layers: int) -> int:
    strategy = config.get("vision_feature_select_strategy", "default")
    if strategy != "default":
        raise ConfigError(
            f"{folder}: vision_feature_select_strategy {strategy!r} is not supported, only 'default'"
        )
    layer = config.get("vision_feature_layer", -2)
    if not isinstance(layer, int):
        raise ConfigError(f"{folder}: vision_feature_layer {layer} is not supported, only one layer")
    resolved = layer if layer >= 0 else num_layers + 1 + layer  # hidden_states[0] is the embeddings
    if not 1 <= resolved <= num_layers:
        raise ConfigError(f"{folder}: vision_feature_layer {layer} is not one of {num_layers} layers")
    return resolved


def _check_weights(llava: Path, clip: Path, feature_layer: int) -> None:
    """Compare two tiny tensors of the towers: one at their start, one in the last layer that is read.

    A LLaVA in the original layout may leave its tower out: it is then that of the CLIP that it names.
    """
    tensors = locate(llava)
    if not any(projector_name(name) for name in tensors):
        raise ConfigError(f"{llava} holds no projector weights (multi_modal_projector or mm_projector)")
    llava_tower, clip_tower = _tower(tensors), _tower(locate(clip))
    if not llava_tower and "mm_vision_tower" in read_config(llava):
        llava_tower = clip_tower
    for name in ("embeddings.class_embedding", f"encoder.layers.{feature_layer - 1}.mlp.fc2.bias"):
        for folder, tower in ((llava, llava_tower), (clip, clip_tower)):
            if name not in tower:
                raise ConfigError(f"{folder} holds no vision tower weights ({name} is missing)")
        ours, our_rounding = read_tensor(llava_tower[name])
        theirs, their_rounding = read_tensor(clip_tower[name])
        allowed = max(our_rounding, their_rounding) * np.abs(theirs) + 1e-7  # float16's smallest steps
        if ours.shape != theirs.shape or (np.abs(ours - theirs) > allowed).any():
            raise ConfigError(f"the vision tower in {llava} is not that of {clip}: {name} differs")


def _tower(tensors: dict[str, Located]) -> dict[str, Located]:
    return {short: where for name, where in tensors.items() if (short := tower_name(name)) is not None}
