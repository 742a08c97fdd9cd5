"""Finds keys of a checkpoint's config.json that nothing reads, transformers neither."""

from pathlib import Path
from typing import Any

from pipeline.models.checkpoints.files import Json, read_config
from pipeline.models.checkpoints.generation import decoding_keys

_SECTIONS = ("text_config", "vision_config")
# Keys that no configuration of transformers 5.23 declares, and why nothing needs to read them.
_HARMLESS = {
    "model_type": "chooses the classes",
    "_name_or_path": "says where the files were",
    "auto_map": "names code of the checkpoint, which never runs",
    "tokenizer_class": "the tokenizer's files say it",
    "torch_dtype": "weights are read in any type",
    "ignore_index": "is for training",
    "vocab_size": "repeats text_config's; older LLaVAs have it",
    "transformers_version": "says what wrote the file",
    "vision_config.vocab_size": "images have no words; LLaVA-1.5 as published has it",
    "rope_theta": "read into rope_parameters",
    "rope_scaling": "read into rope_parameters",
    "text_config_dict": "repeats text_config; OpenAI's CLIPs as published have it",
    "vision_config_dict": "repeats vision_config; OpenAI's CLIPs as published have it",
}
_MOST_NAMED = 5


def unknown_keys_note(folder: Path, config: Any) -> str | None:
    """Return one line that names the keys of a config.json that nothing reads; None if there are none.

    A key whose value is false, 0 or empty asks for nothing.

    Args:
        folder: the checkpoint.
        config: its configuration, as transformers has read it.
    """
    content = read_config(folder)
    found = _unknown(content, config, "")
    for section in _SECTIONS:
        part = content.get(section)
        if isinstance(part, dict):
            found += _unknown(part, getattr(config, section, None), f"{section}.")
    if not found:
        return None
    more = f" and {len(found) - _MOST_NAMED} more" if len(found) > _MOST_NAMED else ""
    return (
        f"{folder / 'config.json'}: nothing reads {', '.join(found[:_MOST_NAMED])}{more}, transformers "
        "neither; if the model needs it, its answers are wrong"
    )


def _unknown(part: Json, config: Any, where: str) -> list[str]:
    declared, decoding = type(config)(), decoding_keys()
    return [
        f"{where}{key}"
        for key, value in part.items()
        if value
        and not {key, f"{where}{key}"} & _HARMLESS.keys()
        and key not in decoding
        and not key.startswith("_")
        and not hasattr(declared, key)
    ]
