"""Change the random checkpoint as published reports do: each function edits a copy of it in a folder."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor

from pipeline.models.demo import random_weights

Change = Callable[[Path], None]
Weights = dict[str, Tensor]
LANGUAGE = "language_model"
TOWER = "vision_tower."


def edit(file: Path, **changes: Any) -> None:
    """Set keys of a JSON file; `text_config__x` sets x within text_config, and None removes a key."""
    content = json.loads(file.read_text())
    for key, value in changes.items():
        part, _, name = key.rpartition("__")
        target = content[part] if part else content
        if value is None:
            target.pop(name, None)
        else:
            target[name] = value
    file.write_text(json.dumps(content, indent=1))


def config(**changes: Any) -> Change:
    """Make a change of the LLaVA's config.json."""
    return lambda root: edit(root / "llava/config.json", **changes)


def image_settings(**changes: Any) -> Change:
    """Make a change of the LLaVA's image processor."""
    nested = {f"image_processor__{key}": value for key, value in changes.items()}
    return lambda root: edit(root / "llava/processor_config.json", **nested)


def generation(**changes: Any) -> Change:
    """Make a change of the LLaVA's generation_config.json."""
    return lambda root: edit(root / "llava/generation_config.json", **changes)


def no_generation(root: Path) -> None:
    """Remove the LLaVA's generation_config.json."""
    (root / "llava/generation_config.json").unlink()


def weights(change: Callable[[Weights], Weights | None], part: str = "llava") -> Change:
    """Make a change of all tensors of a checkpoint."""

    def apply(root: Path) -> None:
        file = root / part / "model.safetensors"
        tensors = load_file(file)
        tensors = change(tensors) or tensors
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, file, {"format": "pt"})

    return apply


def both(*changes: Change) -> Change:
    """Make several changes, one after the other."""

    def apply(root: Path) -> None:
        for change in changes:
            change(root)

    return apply


def renamed(old: str, new: str, part: str = "llava") -> Change:
    """Rename tensors."""
    return weights(lambda held: {name.replace(old, new): tensor for name, tensor in held.items()}, part)


def cast(dtype: torch.dtype, only: str = "", part: str = "llava") -> Change:
    """Store tensors in another type."""
    return weights(lambda held: {n: t.to(dtype) if only in n else t for n, t in held.items()}, part)


def lora(share: float, *suffixes: str, within: str = TOWER) -> Change:
    """Merge a LoRA of rank 8 whose norm is a share of each weight's."""

    def change(held: Weights) -> None:
        generator = torch.Generator().manual_seed(1)
        for name in [name for name in held if within in name and name.endswith(suffixes)]:
            rows, columns = held[name].shape
            delta = torch.randn(rows, 8, generator=generator) @ torch.randn(8, columns, generator=generator)
            held[name] = held[name] + share * held[name].norm() / delta.norm() * delta

    return weights(change)


def tuned(share: float) -> Change:
    """Train the whole tower a little."""

    def change(held: Weights) -> None:
        generator = torch.Generator().manual_seed(2)
        for name in [name for name in held if TOWER in name]:
            held[name] = held[name] * (1 + share * torch.randn(held[name].shape, generator=generator))

    return weights(change)


def quantised(kind: str) -> Change:
    """Store the language model's matrices quantised, as three libraries and a bare recipe do."""
    settings = {
        "int8": {"quant_method": "bitsandbytes", "load_in_8bit": True},
        "fp8": {"quant_method": "compressed-tensors", "format": "float-quantized"},
        "nf4": {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"},
        "awq": {"quant_method": "awq", "bits": 4},
    }

    def change(held: Weights) -> None:
        for name in [n for n, t in held.items() if LANGUAGE in n and ".layers." in n and t.ndim == 2]:
            stem, values = name.removesuffix("weight"), held.pop(name)
            if kind == "int8":
                scale = values.abs().amax(1)
                held |= {name: (values / scale[:, None] * 127).round().to(torch.int8), f"{stem}SCB": scale}
            elif kind == "fp8":
                step = values.abs().max() / 448
                held |= {name: (values / step).to(torch.float8_e4m3fn), f"{name}_scale": step.reshape(1)}
            elif kind == "nf4":
                held |= {name: torch.zeros(values.numel() // 2, 1, dtype=torch.uint8)}
                held |= {f"{name}.absmax": torch.ones(values.numel() // 64 + 1)}
            else:
                held |= {
                    f"{stem}qweight": torch.zeros(4, 4, dtype=torch.int32),
                    f"{stem}scales": torch.ones(4),
                }

    return both(weights(change), config(quantization_config=settings[kind]))


def scaled_floats(root: Path) -> None:
    """Store matrices in steps of a scale beside them, as floats, and say nothing in config.json."""

    def change(held: Weights) -> None:
        for name in [n for n, t in held.items() if n.endswith("q_proj.weight") and LANGUAGE in n]:
            held |= {name: held[name] / 2, f"{name}_scale": torch.tensor([2.0])}

    weights(change)(root)


def plus(tensors: Weights, part: str = "llava") -> Change:
    """Add tensors."""
    return weights(lambda held: held | tensors, part)


def without(*parts: str) -> Change:
    """Leave out the tensors whose names hold one of these."""
    return weights(lambda held: {n: t for n, t in held.items() if not any(part in n for part in parts)})


def tied(root: Path) -> None:
    """Give the output layer the embeddings' values, and leave it out."""

    def change(held: Weights) -> None:
        head = next(held.pop(name) for name in list(held) if name.endswith("lm_head.weight"))
        name = next(name for name in held if name.endswith("embed_tokens.weight"))
        held[name] = held[name] + 0.3 * head

    weights(change)(root)


def sharded(root: Path) -> None:
    """Split the weights into three files."""
    folder = root / "llava"
    held = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(held)
    index = {name: f"model-{number % 3}.safetensors" for number, name in enumerate(names)}
    for file in set(index.values()):
        save_file({n: held[n] for n in names if index[n] == file}, folder / file, {"format": "pt"})
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))


def older_processor(root: Path) -> None:
    """Save the image processor as transformers 4 does, in a file of its own."""
    folder = root / "llava"
    content = json.loads((folder / "processor_config.json").read_text())
    settings = content.pop("image_processor")
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    (folder / "processor_config.json").write_text(json.dumps(content))


def two_processors(root: Path) -> None:
    """Leave an older image processor with other settings beside the newer one."""
    folder = root / "llava"
    nested = json.loads((folder / "processor_config.json").read_text())["image_processor"]
    older = {**nested, "image_mean": [0.5] * 3, "image_std": [0.5] * 3, "resample": 2}
    (folder / "preprocessor_config.json").write_text(json.dumps(older))


def language(kind: str, **settings: Any) -> Change:
    """Put another language model into the LLaVA, with random weights of the same spread."""

    def apply(root: Path) -> None:
        folder = root / "llava"
        whole = transformers.LlavaConfig.from_pretrained(folder)
        old = whole.text_config
        sizes = {
            name: getattr(old, name)
            for name in ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
                         "max_position_embeddings", "vocab_size", "bos_token_id", "eos_token_id")
        }  # fmt: skip
        sizes |= {"num_key_value_heads": 2, "head_dim": 24, "pad_token_id": old.pad_token_id} | settings
        whole.text_config = getattr(transformers, f"{kind}Config")(**sizes)
        model = transformers.LlavaForConditionalGeneration(whole)
        generator = torch.Generator().manual_seed(3)
        scales = {
            "embed_tokens": 1.0,
            "q_proj": 2.0,
            "k_proj": 2.0,
            "v_proj": 2.0,
            "qkv_proj": 2.0,
            "o_proj": 1.4,
        }
        random_weights._randomize(model.model.language_model, scales, generator)
        held = load_file(folder / "model.safetensors")
        kept = {name: tensor for name, tensor in held.items() if not name.startswith(LANGUAGE)}
        new = model.model.language_model.state_dict()
        head = next(tensor for name, tensor in held.items() if name.endswith("lm_head.weight"))
        prefix = f"{LANGUAGE}.model."
        new = {f"{prefix}{name}": tensor.clone() for name, tensor in new.items()}
        new[f"{LANGUAGE}.lm_head.weight"] = head
        save_file(kept | new, folder / "model.safetensors", {"format": "pt"})
        content = json.loads((folder / "config.json").read_text())
        content["text_config"] = json.loads(whole.text_config.to_json_string(use_diff=False))
        (folder / "config.json").write_text(json.dumps(content))

    return apply


def split_experts(root: Path) -> None:
    """Store a Mixtral's experts one by one, as it is published."""

    def change(held: Weights) -> None:
        for name in [name for name in held if ".mlp.experts." in name]:
            joined = held.pop(name)
            stem, _, kind = name.replace(".mlp.", ".block_sparse_moe.").rpartition(".")
            for number, expert in enumerate(joined):
                parts = expert.chunk(2) if kind == "gate_up_proj" else (expert,)
                numbers = ("w1", "w3") if kind == "gate_up_proj" else ("w2",)
                held |= {
                    f"{stem}.{number}.{part}.weight": tensor.clone()
                    for part, tensor in zip(numbers, parts, strict=True)
                }
        for name in [name for name in held if ".mlp.gate." in name]:
            held[name.replace(".mlp.", ".block_sparse_moe.")] = held.pop(name)

    weights(change)(root)


def copy_of(checkpoint: Path, root: Path, change: Change) -> Path:
    """Copy the random checkpoint and change the copy."""
    shutil.copytree(checkpoint, root)
    change(root)
    return root
