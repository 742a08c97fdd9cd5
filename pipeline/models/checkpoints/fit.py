"""Checks that a LLaVA and a CLIP belong together.

It reads JSON and the headers of safetensors files, without torch, in a few milliseconds.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.models.checkpoints.files import Json, read_config, read_json
from pipeline.models.checkpoints.kinds import CLIP, Kind, kind_of, language_sizes, vision_sizes
from pipeline.models.checkpoints.layouts import projector_name
from pipeline.models.checkpoints.supported import require_supported
from pipeline.models.checkpoints.tensors import locate, read_tensor
from pipeline.models.checkpoints.vision_tower import tower_of
from pipeline.models.sizes import Shape, shape_of_config
from pipeline.support.errors import ConfigError

IMAGE_TOKEN = "<image>"

_IMAGE_TOKEN_ID = 32000  # if config.json does not say
_NEAR = 0.9  # least cosine of two tensors if training made one of the other


@dataclass(frozen=True, kw_only=True)
class Geometry(Shape):
    """Holds the shape of a LLaVA and of its vision tower.

    Args:
        patch_size: pixels a side.
        num_patches: N.
        language_width: H.
        feature_layer: vision layers to run to get what LLaVA projects.
        max_positions: of the language model.
        kind: of the vision tower, one of KINDS.
    """

    patch_size: int
    num_patches: int
    language_width: int
    feature_layer: int
    max_positions: int
    kind: str = CLIP.name


def check_fit(llava: Path, clip: Path | None) -> Geometry:
    """Return the geometry of a LLaVA, and check it against the CLIP or SigLIP that it was built on.

    Raises ConfigError, naming what is wrong, if either is not what it should be, if their vision towers have
    other sizes or nothing in common, or if the LLaVA reads its tower in a way that is not supported.
    """
    for folder in filter(None, (llava, clip)):
        require_supported(folder)
    try:
        return _geometry(llava, clip)
    except (TypeError, KeyError, AttributeError, ValueError, ArithmeticError) as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise ConfigError(f"{llava}: config.json is no configuration of a LLaVA: {reason[:200]}") from None


def _geometry(llava: Path, clip: Path | None) -> Geometry:
    llava_config = read_config(llava)
    kind = _check_llava(llava, llava_config)
    vision = vision_sizes(llava_config)
    feature_layer = _feature_layer(llava, llava_config, kind, vision["num_hidden_layers"])
    if not any(projector_name(name) for name in locate(llava)):
        raise ConfigError(f"{llava} holds no projector weights (multi_modal_projector or mm_projector)")
    if clip is not None:
        _check_clip(clip, kind)
        _check_sizes(llava, vision, clip, kind)
        _check_towers(llava, clip, kind, feature_layer)
    language = language_sizes(llava_config.get("text_config"))
    return Geometry(
        **vars(shape_of_config(llava_config)),
        patch_size=vision["patch_size"],
        num_patches=(vision["image_size"] // vision["patch_size"]) ** 2,
        language_width=language["hidden_size"],
        feature_layer=feature_layer,
        max_positions=language["max_position_embeddings"],
        kind=kind.name,
    )


def _check_llava(llava: Path, config: Json) -> Kind:
    """Check type and files of a LLaVA; returns the family of its vision tower."""
    if "mm_vision_tower" in config and "vision_config" not in config:
        raise ConfigError(f"{llava} is in the original LLaVA layout, not in that of Hugging Face")
    if (model_type := config.get("model_type")) != "llava":
        blind = not any("vision" in key for key in config)
        more = ", and there is nothing of a vision tower in its config.json: text alone" if blind else ""
        raise ConfigError(f"{llava} is no llava checkpoint: its model_type is {model_type!r}{more}")
    kind = kind_of(config, llava)
    if not any((llava / name).is_file() for name in ("tokenizer.json", "tokenizer.model")):
        raise ConfigError(f"{llava} lacks a tokenizer (tokenizer.json or tokenizer.model)")
    _check_image_token(llava, config)
    return kind


def _check_clip(clip: Path, kind: Kind) -> None:
    """Check type and files of a CLIP or SigLIP."""
    if (model_type := read_config(clip).get("model_type")) != kind.name:
        raise ConfigError(f"{clip} is no {kind.name} checkpoint: its model_type is {model_type!r}")
    if not any((clip / name).is_file() for name in kind.tokenizers):
        raise ConfigError(f"{clip} lacks a tokenizer ({' or '.join(kind.tokenizers)})")


def _check_sizes(llava: Path, vision: Json, clip: Path, kind: Kind) -> None:
    clip_vision = kind.vision | read_config(clip).get("vision_config", {})
    for key in kind.vision:
        cut = kind.may_be_cut and key == "num_hidden_layers" and vision[key] < clip_vision[key]
        if vision[key] != clip_vision[key] and not cut:
            raise ConfigError(
                f"vision towers differ: {key} is {vision[key]} in {llava} and {clip_vision[key]} in {clip}"
            )


def _check_image_token(folder: Path, config: Json) -> None:
    """Require that tokenizer and model have the same number for `<image>`.

    In the original layout it is negative: prompts are split at `<image>` before tokenising.
    """
    expected = _image_token_id(folder, config)
    token_id = _added_tokens(folder).get(IMAGE_TOKEN)
    if expected < 0 or token_id == expected:
        return
    if token_id is None:
        raise ConfigError(f"{folder}: the tokenizer has no image token ({IMAGE_TOKEN})")
    raise ConfigError(
        f"{folder}: {IMAGE_TOKEN} is token {token_id} of the tokenizer, but {expected} of the model"
    )


def image_token_id(folder: Path) -> int:
    """Return the id that stands for an image in a LLaVA's prompts; negative in the original layout."""
    return _image_token_id(folder, read_config(folder))


def _image_token_id(folder: Path, config: Json) -> int:
    names = ("image_token_index", "image_token_id")
    values = [config[name] for name in names if name in config]
    value = values[0] if values else _IMAGE_TOKEN_ID
    if any(other != value for other in values):
        raise ConfigError(
            f"{folder / 'config.json'}: image_token_index is {value}, image_token_id {values[1]}"
        )
    if type(value) is not int:
        raise ConfigError(f"{folder / 'config.json'}: image_token_index is {value!r}, no number")
    return value


def _added_tokens(folder: Path) -> dict[str, int]:
    """Read the ids of the tokens that were added to the tokenizer's vocabulary."""
    files = {
        name: read_json(folder / name)
        for name in ("added_tokens.json", "tokenizer_config.json", "tokenizer.json")
        if (folder / name).is_file()
    }
    try:
        token_ids: dict[str, int] = dict(files.get("added_tokens.json", {}))
        decoder = files.get("tokenizer_config.json", {}).get("added_tokens_decoder", {})
        token_ids |= {entry["content"]: int(number) for number, entry in decoder.items()}
        whole = files.get("tokenizer.json", {})
        return token_ids | {entry["content"]: entry["id"] for entry in whole.get("added_tokens", [])}
    except (TypeError, KeyError, ValueError, AttributeError) as error:
        raise ConfigError(f"{folder}: the tokenizer's added tokens cannot be read: {error!r}") from None


def _feature_layer(folder: Path, config: Json, kind: Kind, num_layers: int) -> int:
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


def _check_towers(llava: Path, clip: Path, kind: Kind, feature_layer: int) -> None:
    """Require that training may have made the LLaVA's tower of the CLIP's, or that the LLaVA has none.

    Two tensors are compared: one at the towers' start, one in the last layer that is read.
    """
    ours, theirs = tower_of(llava), tower_of(clip)
    if not ours and "mm_vision_tower" in read_config(llava):
        ours = theirs
    for name in (kind.landmark, f"encoder.layers.{feature_layer - 1}.mlp.fc1.weight"):
        for folder, tower in ((llava, ours), (clip, theirs)):
            if name not in tower:
                raise ConfigError(f"{folder} holds no vision tower weights ({name} is missing)")
        left, right = read_tensor(ours[name])[0], read_tensor(theirs[name])[0]
        if left.shape != right.shape or not _near(left, right):
            raise ConfigError(f"the vision tower in {llava} is not that of {clip}: {name} differs")


def _near(ours: NDArray[np.float32], theirs: NDArray[np.float32]) -> bool:
    """Tell whether one tensor may be trained from the other: unrelated ones are about orthogonal."""
    lengths = float(np.linalg.norm(ours) * np.linalg.norm(theirs))
    return float(np.vdot(ours, theirs)) >= _NEAR * lengths
