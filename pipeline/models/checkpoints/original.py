"""LLaVA's original layout, as haotian-liu/LLaVA and its forks write it, seen as that of Hugging Face.

Such a checkpoint has one flat config.json (`mm_vision_tower`, `mm_projector_type`, ... beside Llama's keys),
a Llama tokenizer that knows no `<image>`, and weights without the vision tower, which `mm_vision_tower`
names. What a key means is read from llava/model/llava_arch.py, multimodal_encoder/ and multimodal_projector/.

Nothing is copied but small files: the weights stay where they are, under their own names.
"""

import hashlib
import json
import re
from pathlib import Path
from typing import Any

from pipeline.models.checkpoints.kinds import CLIP
from pipeline.models.checkpoints.llama_tokenizer import TOKENIZER_FILES, write_tokenizer
from pipeline.models.checkpoints.tensors import INDEX, read_config, weight_files
from pipeline.support.cache import cache_folder, made_once
from pipeline.support.errors import ConfigError

IMAGE_TOKEN_ID = -200  # llava/constants.py: IMAGE_TOKEN_INDEX
REDUCE_FUNC = (
    "mm_vision_token_reduce_func"  # of TRIM's authors' fork, pipeline/models/checkpoints/tuned_reducer.py
)
_VERSION = 1  # of what is written; raise it with every change
_TYPES = ("llava", "llava_llama")  # llava_mpt, llava_mistral, ... have other language models
_IMAGE_PX = re.compile(r"-(\d{3})$")  # openai/clip-vit-large-patch14-336
_FEATURES = {"patch": "default", "cls_patch": "full"}
# What a text_config takes over from the flat config.json.
_LANGUAGE = (
    *("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"),
    *("num_key_value_heads", "head_dim", "hidden_act", "max_position_embeddings", "initializer_range"),
    *("rms_norm_eps", "rope_theta", "rope_scaling", "attention_bias", "mlp_bias", "tie_word_embeddings"),
    *("bos_token_id", "eos_token_id", "pad_token_id"),
)
# What would change the tokens, and has no counterpart here -> the values with which it does nothing.
_UNSUPPORTED = {
    "image_aspect_ratio": (None, "pad", "square"),
    "mm_patch_merge_type": (None, "flat"),
    "mm_projector_type": ("mlp2x_gelu",),
    "mm_use_im_start_end": (None, False),
    "mm_resampler_type": (None,),
    "s2": (None, False),
}


def is_original(config: dict[str, Any]) -> bool:
    """Whether a config.json is of the original layout."""
    return "mm_vision_tower" in config and "vision_config" not in config


def pads(folder: Path, config: dict[str, Any]) -> bool:
    """Whether images are padded to squares, or cut as CLIP does. Raises ConfigError if it is neither."""
    _require_supported(folder, config, "image_aspect_ratio")
    return config.get("image_aspect_ratio") == "pad"


def as_hugging_face(folder: Path, clip: Path) -> Path:
    """A folder in the cache that shows an original checkpoint as one of Hugging Face; made once.

    Its weight files are links to the checkpoint's own, so it takes no room. Its `image_token_index` is
    negative, and `mm_vision_tower` stays in its config.json: the tower may be the CLIP's.
    Raises ConfigError if it is not a checkpoint of LLaVA and that CLIP, or does what is not supported.
    """
    config = translated(folder, clip)
    files = weight_files(folder)
    own = [folder / name for name in (INDEX, "generation_config.json", *TOKENIZER_FILES)]
    small = [(file.name, file.read_bytes()) for file in own if file.is_file()]
    told = [(str(file.absolute()), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    identity = hashlib.sha256(repr((_VERSION, config, told, small)).encode()).hexdigest()[:16]

    def make(made: Path) -> None:
        (made / "config.json").write_text(json.dumps(config, indent=1))
        for name, content in small:
            if name not in TOKENIZER_FILES:
                (made / name).write_bytes(content)
        for file in files:
            (made / file.name).symlink_to(file.absolute())
        write_tokenizer(folder, made, config["text_config"])

    return made_once(cache_folder() / f"original-{identity}", make)


def translated(folder: Path, clip: Path) -> dict[str, Any]:
    """The config.json of Hugging Face's layout that says what the original's does.

    Raises ConfigError if the checkpoint is not one of LLaVA and that CLIP, or does what is not supported.
    """
    config, clip_config = read_config(folder), read_config(clip)
    if config.get("model_type") not in _TYPES:
        raise ConfigError(
            f"{folder}: model_type {config.get('model_type')!r} is none of Llama's: {', '.join(_TYPES)}"
        )
    for key in _UNSUPPORTED:
        _require_supported(folder, config, key)
    vision = CLIP.vision | clip_config.get("vision_config", {})
    _require_clip(folder, config, clip, vision)
    feature = config.get("mm_vision_select_feature", "patch")
    if feature not in _FEATURES:
        raise ConfigError(f"{folder}: mm_vision_select_feature {feature!r} is none of {', '.join(_FEATURES)}")
    kept = {key: config[key] for key in ("mm_vision_tower", REDUCE_FUNC) if key in config}
    return {
        "architectures": ["LlavaForConditionalGeneration"],
        "model_type": "llava",
        "dtype": config.get("torch_dtype", config.get("dtype", "float16")),
        "image_token_index": IMAGE_TOKEN_ID,
        "image_seq_length": (vision["image_size"] // vision["patch_size"]) ** 2,
        "projector_hidden_act": "gelu",
        "vision_feature_layer": config.get("mm_vision_select_layer", -2),
        "vision_feature_select_strategy": _FEATURES[feature],
        "text_config": {"model_type": "llama", **{key: config[key] for key in _LANGUAGE if key in config}},
        "vision_config": {**vision, "model_type": "clip_vision_model"},
        **kept,
    }


def _require_supported(folder: Path, config: dict[str, Any], key: str) -> None:
    value = config.get(key)
    if value not in _UNSUPPORTED[key]:
        known = ", ".join(json.dumps(one) for one in _UNSUPPORTED[key])
        raise ConfigError(f"{folder}: {key} {value!r} is not supported, only {known}")


def _require_clip(folder: Path, config: dict[str, Any], clip: Path, vision: dict[str, Any]) -> None:
    """What can be told of the CLIP without weights: its width, and the pixels that its name ends in."""
    named = str(config["mm_vision_tower"])
    width = config.get("mm_hidden_size", vision["hidden_size"])
    if width != vision["hidden_size"]:
        raise ConfigError(
            f"{folder} was built on a CLIP of width {width} ({named}), but {clip} has {vision['hidden_size']}"
        )
    pixels = _IMAGE_PX.search(named)
    if pixels and int(pixels[1]) != vision["image_size"]:
        raise ConfigError(
            f"{folder} was built on {named}, but {clip} takes images of {vision['image_size']} pixels a side"
        )
