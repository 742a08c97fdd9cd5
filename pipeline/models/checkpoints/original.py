"""Translates LLaVA's original layout, of haotian-liu/LLaVA and its forks, to Hugging Face's.

Such a checkpoint has one flat config.json (`mm_vision_tower`, `mm_projector_type`, ... beside Llama's keys),
a Llama tokenizer without `<image>`, and weights without the vision tower, which `mm_vision_tower` names. The
meaning of the keys is that of llava/model/llava_arch.py, multimodal_encoder/ and multimodal_projector/.

Only small files are copied: the weights stay where they are, under their own names.
"""

import json
import re
from pathlib import Path

from pipeline.models.checkpoints.files import Json, read_config
from pipeline.models.checkpoints.kinds import CLIP
from pipeline.models.checkpoints.presented import present
from pipeline.support.errors import ConfigError

IMAGE_TOKEN_ID = -200  # llava/constants.py: IMAGE_TOKEN_INDEX
REDUCE_FUNC = (
    "mm_vision_token_reduce_func"  # of TRIM's authors' fork, pipeline/models/checkpoints/tuned_reducer.py
)
_TYPES = ("llava", "llava_llama")  # llava_mpt, llava_mistral, ... have other language models
_IMAGE_PX = re.compile(r"-(\d{3})$")  # openai/clip-vit-large-patch14-336
_FEATURES = {"patch": "default", "cls_patch": "full"}
# Keys of the flat config.json that become keys of the text_config.
_LANGUAGE = (
    *("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"),
    *("num_key_value_heads", "head_dim", "hidden_act", "max_position_embeddings", "initializer_range"),
    *("rms_norm_eps", "rope_theta", "rope_scaling", "attention_bias", "mlp_bias", "tie_word_embeddings"),
    *("bos_token_id", "eos_token_id", "pad_token_id"),
)
# Keys that would change the tokens, and are not supported -> their values that change nothing.
_UNSUPPORTED = {
    "image_aspect_ratio": (None, "pad", "square"),
    "mm_patch_merge_type": (None, "flat"),
    "mm_projector_type": ("mlp2x_gelu",),
    "mm_use_im_start_end": (None, False),
    "mm_resampler_type": (None,),
    "s2": (None, False),
}


def pads(folder: Path, config: Json) -> bool:
    """Tell whether images are padded to squares or (False) cropped; ConfigError if neither."""
    _require_supported(folder, config, "image_aspect_ratio")
    return config.get("image_aspect_ratio") == "pad"


def as_hugging_face(folder: Path, clip: Path) -> Path:
    """Return a cache folder that presents an original checkpoint in Hugging Face's layout; made once.

    Its weight files are links to the checkpoint's own, so it takes no space. Its `image_token_index` is
    negative, and `mm_vision_tower` stays in its config.json: the tower may be the CLIP's.
    Raises ConfigError if it is not a checkpoint of LLaVA and that CLIP, or does what is not supported.
    """
    return present(folder, translated(folder, clip), "original", ["generation_config.json"], None)


def translated(folder: Path, clip: Path) -> Json:
    """Translate an original config.json to Hugging Face's layout.

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


def _require_supported(folder: Path, config: Json, key: str) -> None:
    value = config.get(key)
    if value not in _UNSUPPORTED[key]:
        known = ", ".join(json.dumps(supported) for supported in _UNSUPPORTED[key])
        raise ConfigError(f"{folder}: {key} {value!r} is not supported, only {known}")


def _require_clip(folder: Path, config: Json, clip: Path, vision: Json) -> None:
    """Require that the CLIP has the width and the image size on which the LLaVA was built."""
    name = str(config["mm_vision_tower"])
    width = config.get("mm_hidden_size", vision["hidden_size"])
    if width != vision["hidden_size"]:
        raise ConfigError(
            f"{folder} was built on a CLIP of width {width} ({name}), but {clip} has {vision['hidden_size']}"
        )
    pixels = _IMAGE_PX.search(name)
    if pixels and int(pixels[1]) != vision["image_size"]:
        raise ConfigError(
            f"{folder} was built on {name}, but {clip} takes images of {vision['image_size']} pixels a side"
        )
