"""Reads a LoRA adapter in PEFT's format, and adds it to the weights of a language model.

Legend: R rank, I inputs of a layer, O its outputs.
"""

import hashlib
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn

from pipeline.models.checkpoints.files import read_json
from pipeline.models.checkpoints.layouts import language_name
from pipeline.support.cache import sha256_of
from pipeline.support.errors import ConfigError

CONFIG, WEIGHTS_FILE = "adapter_config.json", "adapter_model.safetensors"
_NAME = re.compile(r"(?:base_model\.model\.)?(?P<layer>.+)\.lora_(?P<side>[AB])(?:\.default)?\.weight")
# What changes the layers' outputs by more than B A, with the values that do not.
_UNSUPPORTED: dict[str, tuple[object, ...]] = {
    "use_dora": (False, None),
    "bias": ("none", None),
    "lora_bias": (False, None),
    "fan_in_fan_out": (False, None),
    "modules_to_save": (None, []),
    "rank_pattern": (None, {}),
    "alpha_pattern": (None, {}),
    "layer_replication": (None, []),
}


@dataclass(frozen=True)
class Adapter:
    """Holds what a LoRA adapter adds to a language model: `scale` B A for each of `layers`.

    Args:
        layers: by the layer's name in the language model alone: the names of its tensors A and B.
    """

    folder: Path
    scale: float
    layers: dict[str, dict[str, str]]

    @property
    def digest(self) -> str:
        """A hash of the adapter's two files."""
        hashes = [sha256_of(self.folder / name) for name in (CONFIG, WEIGHTS_FILE)]
        return hashlib.sha256("".join(hashes).encode()).hexdigest()


def read_adapter(folder: Path) -> Adapter:
    """Read an adapter's configuration and the names of its tensors, but no weights.

    Raises:
        ConfigError: it is no LoRA of the language model alone, or one that does more than add to weights.
    """
    for name in (CONFIG, WEIGHTS_FILE):
        if not (folder / name).is_file():
            raise ConfigError(f"engine.lora: {folder} holds no {name}")
    config = _checked(folder / CONFIG)
    rank = config["r"]
    layers: dict[str, dict[str, str]] = {}
    with safe_open(folder / WEIGHTS_FILE, framework="pt") as tensors:
        for name in tensors.keys():  # noqa: SIM118 - not a dict
            match = _NAME.fullmatch(name)
            layer = match and language_name(f"{match['layer']}.weight")
            if not match or not layer or "embed_tokens" in layer:
                raise ConfigError(
                    f"engine.lora: {folder / WEIGHTS_FILE}: {name} is of no linear layer of the language "
                    "model, and others cannot be adapted; merge the adapter into the checkpoint instead"
                )
            layers.setdefault(layer, {})[match["side"]] = name
    if not layers or any(len(sides) != 2 for sides in layers.values()):
        raise ConfigError(f"engine.lora: {folder / WEIGHTS_FILE} does not hold a pair A, B for each layer")
    scale = config["lora_alpha"] / (math.sqrt(rank) if config.get("use_rslora") else rank)
    return Adapter(folder, scale, layers)


def _checked(file: Path) -> dict[str, Any]:  # JSON of PEFT
    """Read adapter_config.json; ConfigError if it says what is not supported."""
    try:
        config: dict[str, Any] = read_json(file)
        is_lora = config["peft_type"] == "LORA" and config["r"] >= 1 and config["lora_alpha"] > 0
    except (ValueError, TypeError, KeyError) as error:
        raise ConfigError(f"engine.lora: {file} cannot be read: {error!r}") from None
    if not is_lora:
        raise ConfigError(f"engine.lora: {file} describes no LoRA adapter with r and lora_alpha")
    for name, neutral in _UNSUPPORTED.items():
        if config.get(name) not in neutral:
            raise ConfigError(
                f"engine.lora: {file}: {name}={config[name]} is not supported; merge the adapter into the "
                "checkpoint instead"
            )
    return config


def merge_adapter(model: nn.Module, adapter: Adapter) -> None:
    """Add an adapter to a language model's weights in place; computed in float32, kept in their dtype.

    Raises:
        ConfigError: the model has no such layer, or one of another shape.
    """
    weights = dict(model.named_parameters())
    with safe_open(adapter.folder / WEIGHTS_FILE, framework="pt") as tensors, torch.no_grad():
        for layer, sides in adapter.layers.items():
            a_RI, b_OR = (tensors.get_tensor(sides[side]).float() for side in "AB")
            weight_OI: Tensor | None = weights.get(layer)
            if weight_OI is None or weight_OI.shape != (b_OR.shape[0], a_RI.shape[1]):
                raise ConfigError(
                    f"engine.lora: {adapter.folder}: the language model has no {layer} of "
                    f"{b_OR.shape[0]} x {a_RI.shape[1]} numbers"
                )
            weight_OI.copy_((weight_OI.float() + adapter.scale * (b_OR @ a_RI)).to(weight_OI.dtype))
