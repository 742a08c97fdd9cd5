"""Make LoRA adapters in PEFT's format for tests."""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file

from pipeline.models.checkpoints.layouts import language_name
from pipeline.models.checkpoints.tensors import locate

LAYER = "layers.1.self_attn.v_proj"
_TARGETS = ("q_proj", "v_proj", "down_proj")
_RANK, _ALPHA = 4, 8  # the scale is 2


def make_adapter(
    llava: Path, folder: Path, *, prefix: str = "model.language_model", size: float = 0.1
) -> Path:
    """Write a random adapter of the language model of `llava`, with its layers named below `prefix`."""
    noise = torch.Generator().manual_seed(0)
    tensors = {}
    for name, where in locate(llava).items():
        layer = language_name(name)
        if layer is None or layer.split(".")[-2] not in _TARGETS:
            continue
        outputs, inputs = where.shape
        key = f"base_model.model.{prefix}.{layer.removeprefix('model.').removesuffix('.weight')}"
        tensors[f"{key}.lora_A.weight"] = size * torch.randn(_RANK, inputs, generator=noise)
        tensors[f"{key}.lora_B.weight"] = size * torch.randn(outputs, _RANK, generator=noise)
    folder.mkdir(parents=True)
    save_file(tensors, folder / "adapter_model.safetensors")
    config = {
        **{"peft_type": "LORA", "r": _RANK, "lora_alpha": _ALPHA, "target_modules": list(_TARGETS)},
        **{"bias": "none", "use_dora": False, "modules_to_save": None, "rank_pattern": {}},
    }
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder
