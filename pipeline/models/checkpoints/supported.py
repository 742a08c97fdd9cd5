"""Refuses a checkpoint whose small files ask for what is not done, before anything of it is loaded."""

from pathlib import Path

from pipeline.models.checkpoints.files import SMALL_FILES, Json, read_config, require_inside
from pipeline.support.errors import ConfigError

_SECTIONS = ("", "text_config", "vision_config")
# Sizes of a configuration, with the most that is believed.
_MOST = {
    "hidden_size": 1 << 17,
    "intermediate_size": 1 << 19,
    "num_hidden_layers": 1 << 10,
    "num_attention_heads": 1 << 12,
    "num_key_value_heads": 1 << 12,
    "head_dim": 1 << 14,
    "vocab_size": 1 << 24,
    "max_position_embeddings": 1 << 31,
    "image_size": 1 << 14,
    "patch_size": 1 << 14,
    "projection_dim": 1 << 17,
}


def require_supported(folder: Path) -> None:
    """Refuse what a LLaVA's or CLIP's folder says of itself and Trimline does not do.

    Raises:
        ConfigError: one line that names the file and the key.
    """
    for name in SMALL_FILES:
        if (folder / name).exists():
            require_inside(folder / name)
    config = read_config(folder)
    for section in _SECTIONS:
        part = config.get(section, {}) if section else config
        if part is None:
            continue
        if not isinstance(part, dict):
            raise ConfigError(f"{folder / 'config.json'}: {section} is no object")
        _require_plain(folder, part, f"{section}." if section else "")
    adapter = folder / "adapter_config.json"
    if adapter.exists():
        raise ConfigError(
            f"{adapter}: a LoRA adapter beside the weights is not read; merge it (peft: merge_and_unload) "
            "and save the model"
        )


def _require_plain(folder: Path, part: Json, where: str) -> None:
    file = folder / "config.json"
    quantised = part.get("quantization_config")
    if quantised:
        method = quantised.get("quant_method") if isinstance(quantised, dict) else quantised
        raise ConfigError(
            f"{file}: {where}quantization_config ({method}): quantised weights cannot be read; load the "
            "model with transformers, dequantise it (model.dequantize()) and save it"
        )
    if part.get("transformers_weights"):
        raise ConfigError(
            f"{file}: {where}transformers_weights={part['transformers_weights']} is not supported; weights "
            "are read from model.safetensors or its index"
        )
    for key, most in _MOST.items():
        size = part.get(key)
        if size is not None and not (type(size) is int and 1 <= size <= most):
            raise ConfigError(f"{file}: {where}{key} is {size!r}, not a number from 1 to {most:,}")
    pad, vocabulary = part.get("pad_token_id"), part.get("vocab_size")
    if isinstance(pad, int) and isinstance(vocabulary, int) and pad >= vocabulary:
        raise ConfigError(
            f"{file}: {where}pad_token_id is {pad}, beyond the vocab_size of {vocabulary}; any token below "
            "it will do, since generation pads with the end token"
        )
