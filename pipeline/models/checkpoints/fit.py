"""Tell checkpoints from one another, and refuse those that do not belong together.

Reads JSON and the headers of safetensors files only: no torch, no weights, a few milliseconds.
"""

import hashlib
import struct
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.models.checkpoints.kinds import CLIP, Kind, kind_of, language_sizes, vision_sizes
from pipeline.models.checkpoints.layouts import projector_name, tower_name
from pipeline.models.checkpoints.tensors import (
    Located,
    locate,
    read_config,
    read_header,
    read_json,
    read_tensor,
    tensors_of,
    weight_files,
)
from pipeline.support.errors import ConfigError

IMAGE_TOKEN = "<image>"

SMALL_FILES = (
    "config.json",
    "generation_config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "tokenizer.json",
    "tokenizer.model",
    "spiece.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
)
_IMAGE_TOKEN_ID = 32000  # of a config.json that does not say
_NEAR = 0.9  # cosine


@dataclass(frozen=True)
class Geometry:
    """Shapes of a LLaVA and its CLIP (or SigLIP) that fit each other."""

    image_size: int  # S, pixels a side
    patch_size: int  # pixels a side
    num_patches: int  # N
    vision_width: int  # D
    joint_width: int  # P, of CLIP's image-text space
    language_width: int  # H
    feature_layer: int  # vision layers to run to get what LLaVA projects
    max_positions: int  # of the language model
    kind: str = CLIP.name  # of the vision tower: one of KINDS


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
    """The geometry of a LLaVA and the CLIP or SigLIP whose vision tower it has.

    Raises ConfigError, naming what is wrong, if either is not what it should be, if they have different
    vision towers, or if the LLaVA reads its tower in a way that is not supported.
    """
    llava_config, clip_config = read_config(llava), read_config(clip)
    kind = _check_kinds(llava, llava_config, clip, clip_config)
    vision, clip_vision = vision_sizes(llava_config), kind.vision | clip_config.get("vision_config", {})
    for key in kind.vision:
        cut = kind.tuned and key == "num_hidden_layers" and vision[key] < clip_vision[key]
        if vision[key] != clip_vision[key] and not cut:
            raise ConfigError(
                f"vision towers differ: {key} is {vision[key]} in {llava} and {clip_vision[key]} in {clip}"
            )
    feature_layer = _feature_layer(llava, llava_config, kind, vision["num_hidden_layers"])
    _check_weights(llava, clip, kind, feature_layer)
    language = language_sizes(llava_config.get("text_config"))
    return Geometry(
        image_size=vision["image_size"],
        patch_size=vision["patch_size"],
        num_patches=(vision["image_size"] // vision["patch_size"]) ** 2,
        vision_width=vision["hidden_size"],
        joint_width=kind.joint_width(clip_config),
        language_width=language["hidden_size"],
        feature_layer=feature_layer,
        max_positions=language["max_position_embeddings"],
        kind=kind.name,
    )


def _check_kinds(llava: Path, llava_config: dict[str, Any], clip: Path, clip_config: dict[str, Any]) -> Kind:
    """The family of the vision tower."""
    if "mm_vision_tower" in llava_config and "vision_config" not in llava_config:
        raise ConfigError(f"{llava} is in the original LLaVA layout, not in that of Hugging Face")
    if (found := llava_config.get("model_type")) != "llava":
        blind = not any("vision" in key for key in llava_config)
        more = ", and there is nothing of a vision tower in its config.json: text alone" if blind else ""
        raise ConfigError(f"{llava} is no llava checkpoint: its model_type is {found!r}{more}")
    kind = kind_of(llava_config, llava)
    if (found := clip_config.get("model_type")) != kind.name:
        raise ConfigError(f"{clip} is no {kind.name} checkpoint: its model_type is {found!r}")
    if not any((llava / name).is_file() for name in ("tokenizer.json", "tokenizer.model")):
        raise ConfigError(f"{llava} lacks a tokenizer (tokenizer.json or tokenizer.model)")
    if not any((clip / name).is_file() for name in kind.tokenizers):
        raise ConfigError(f"{clip} lacks a tokenizer ({' or '.join(kind.tokenizers)})")
    _check_image_token(llava, llava_config)
    return kind


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


def _feature_layer(folder: Path, config: dict[str, Any], kind: Kind, num_layers: int) -> int:
    strategy = config.get("vision_feature_select_strategy", "default")
    if strategy != kind.strategy:
        raise ConfigError(
            f"{folder}: vision_feature_select_strategy {strategy!r} is not supported, only {kind.strategy!r} "
            f"with a vision tower of {kind.name}"
        )
    layer = config.get("vision_feature_layer", -2)
    if not isinstance(layer, int):
        raise ConfigError(f"{folder}: vision_feature_layer {layer} is not supported, only one layer")
    resolved = layer if layer >= 0 else num_layers + 1 + layer  # hidden_states[0] is the embeddings
    if not 1 <= resolved <= num_layers:
        raise ConfigError(f"{folder}: vision_feature_layer {layer} is not one of {num_layers} layers")
    return resolved


def _check_weights(llava: Path, clip: Path, kind: Kind, feature_layer: int) -> None:
    """Compare two tiny tensors of the towers: one at their start, one in the last layer that is read.

    They are equal but for rounding or, where towers are tuned, near each other. A LLaVA in the original
    layout may leave its tower out: it is then that of the CLIP that it names.
    """
    tensors = locate(llava)
    if not any(projector_name(name) for name in tensors):
        raise ConfigError(f"{llava} holds no projector weights (multi_modal_projector or mm_projector)")
    llava_tower, clip_tower = _tower(tensors), _tower(locate(clip))
    if not llava_tower and "mm_vision_tower" in read_config(llava):
        llava_tower = clip_tower
    for name in (kind.landmark, f"encoder.layers.{feature_layer - 1}.mlp.fc2.bias"):
        for folder, tower in ((llava, llava_tower), (clip, clip_tower)):
            if name not in tower:
                raise ConfigError(f"{folder} holds no vision tower weights ({name} is missing)")
        ours, our_rounding = read_tensor(llava_tower[name])
        theirs, their_rounding = read_tensor(clip_tower[name])
        alike = _near if kind.tuned else partial(_equal, rounding=max(our_rounding, their_rounding))
        if ours.shape != theirs.shape or not alike(ours, theirs):
            raise ConfigError(f"the vision tower in {llava} is not that of {clip}: {name} differs")


def _equal(ours: np.ndarray, theirs: np.ndarray, rounding: float) -> bool:
    allowed = rounding * np.abs(theirs) + 1e-7  # float16's smallest steps
    return bool((np.abs(ours - theirs) <= allowed).all())


def _near(ours: np.ndarray, theirs: np.ndarray) -> bool:
    """Whether training may have made one of the other; towers trained apart are about orthogonal."""
    lengths = float(np.linalg.norm(ours) * np.linalg.norm(theirs))
    return float(np.vdot(ours, theirs)) >= _NEAR * lengths


def _tower(tensors: dict[str, Located]) -> dict[str, Located]:
    return {short: where for name, where in tensors.items() if (short := tower_name(name)) is not None}
