"""Make checkpoints from the random one: in LLaVA's original layout, and one with terabytes of weights.

The original layout has config.json, tensor names and files as published: the keys of config.json and
tokenizer_config.json are those of liuhaotian/llava-v1.5-7b, the names of the tensors those of
haotian-liu/LLaVA's modules (llava/model/llava_arch.py, multimodal_projector/builder.py).
"""

import io
import json
import shutil
import struct
from pathlib import Path
from typing import Any

import sentencepiece
import torch
from safetensors.torch import load_file, save_file

from pipeline.models.demo.random_weights import SENTENCES

PIECES = 700


def make_original(
    random_checkpoint: Path, folder: Path, *, dtype: torch.dtype, shards: int = 2, tower: bool
) -> Path:
    """Write a checkpoint in the original layout as safetensors, with a SentencePiece tokenizer.

    Its config.json names the random CLIP.
    """
    folder.mkdir()
    clip = random_checkpoint / "clip"
    (folder / "tokenizer.model").write_bytes(pieces())
    write(
        folder / "tokenizer_config.json",
        {
            "add_bos_token": True,
            "add_eos_token": False,
            "clean_up_tokenization_spaces": False,
            "legacy": False,
            "model_max_length": 2048,
            "pad_token": None,
            "padding_side": "right",
            "sp_model_kwargs": {},
            "tokenizer_class": "LlamaTokenizer",
        },
    )
    write(folder / "generation_config.json", {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0})
    theirs = json.loads((random_checkpoint / "llava" / "config.json").read_text())["text_config"]
    write(
        folder / "config.json",
        {
            "architectures": ["LlavaLlamaForCausalLM"],
            "bos_token_id": 1,
            "eos_token_id": 2,
            "freeze_mm_mlp_adapter": False,
            "hidden_act": "silu",
            "hidden_size": theirs["hidden_size"],
            "image_aspect_ratio": "pad",
            "initializer_range": 0.02,
            "intermediate_size": theirs["intermediate_size"],
            "max_length": 4096,
            "max_position_embeddings": 4096,
            "mm_hidden_size": 64,
            "mm_projector_type": "mlp2x_gelu",
            "mm_resampler_type": None,
            "mm_use_im_patch_token": False,
            "mm_use_im_start_end": False,
            "mm_vision_select_feature": "patch",
            "mm_vision_select_layer": -2,
            "mm_vision_tower": str(clip),
            "model_type": "llava",
            "num_attention_heads": theirs["num_attention_heads"],
            "num_hidden_layers": theirs["num_hidden_layers"],
            "num_key_value_heads": theirs["num_key_value_heads"],
            "pad_token_id": 0,
            "pretraining_tp": 1,
            "rms_norm_eps": theirs["rms_norm_eps"],
            "rope_scaling": None,
            "tie_word_embeddings": False,
            "torch_dtype": "float16",
            "use_cache": True,
            "use_mm_proj": True,
            "vocab_size": PIECES,
        },
    )
    weights = renamed(load_file(random_checkpoint / "llava" / "model.safetensors"), tower)
    in_shards(folder, {name: weight.to(dtype).contiguous() for name, weight in weights.items()}, shards)
    return folder


def pieces() -> bytes:
    """Train a tokenizer.model like Llama's: BPE with byte fallback and a leading space."""
    sink = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(SENTENCES * 3),
        model_writer=sink,
        model_type="bpe",
        vocab_size=PIECES,
        byte_fallback=True,
        split_digits=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        character_coverage=1.0,
        minloglevel=2,
    )
    return sink.getvalue()


def renamed(weights: dict[str, torch.Tensor], tower: bool) -> dict[str, torch.Tensor]:
    """Rename the tensors to their original names and cut the tables to the vocabulary's size."""
    tensors = {}
    for name, weight in weights.items():
        if name.startswith("language_model."):
            tensors[name.removeprefix("language_model.")] = weight
        elif name.startswith("multi_modal_projector."):
            layer = {"linear_1": "0", "linear_2": "2"}[name.split(".")[1]]
            tensors[f"model.mm_projector.{layer}.{name.split('.')[2]}"] = weight
        elif tower:
            short = name.removeprefix("vision_tower.").removeprefix("vision_model.")
            tensors[f"model.vision_tower.vision_tower.vision_model.{short}"] = weight
    tensors["model.embed_tokens.weight"] = tensors["model.embed_tokens.weight"][:PIECES]
    spread = torch.empty(PIECES, 96).normal_(generator=torch.Generator().manual_seed(0))
    tensors["lm_head.weight"] = (
        20 * spread / spread.norm(dim=1, keepdim=True)
    )  # far apart, so that no two logits nearly tie
    for layer in range(3):  # early Llama checkpoints stored this buffer
        tensors[f"model.layers.{layer}.self_attn.rotary_emb.inv_freq"] = torch.ones(12)
    return tensors


def in_shards(folder: Path, weights: dict[str, torch.Tensor], shards: int) -> None:
    if shards == 1:
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        return
    names, index = sorted(weights), {}
    for number in range(shards):
        file = f"model-{number + 1:05d}-of-{shards:05d}.safetensors"
        part = names[number::shards]
        save_file({name: weights[name] for name in part}, folder / file, metadata={"format": "pt"})
        index |= dict.fromkeys(part, file)
    write(folder / "model.safetensors.index.json", {"metadata": {}, "weight_map": index})


def as_pickles(folder: Path) -> None:
    """Rewrite the weights as pytorch_model-*.bin, the published format."""
    index = {}
    for file in sorted(folder.glob("model-*.safetensors")):
        weights = load_file(file)
        target = f"pytorch_{file.stem}.bin"
        torch.save(weights, folder / target)
        index |= dict.fromkeys(weights, target)
        file.unlink()
    (folder / "model.safetensors.index.json").unlink()
    write(folder / "pytorch_model.bin.index.json", {"metadata": {}, "weight_map": index})


def edit(folder: Path, **changes: Any) -> None:
    """Change keys of config.json; None removes a key."""
    config = json.loads((folder / "config.json").read_text()) | changes
    write(folder / "config.json", {key: value for key, value in config.items() if value is not None})


def write(file: Path, content: dict[str, Any]) -> None:
    file.write_text(json.dumps(content))


def make_huge(random_checkpoint: Path, target: Path) -> Path:
    """Copy the checkpoint and give `llava` a sparse file that declares 8 TiB of weights."""
    shutil.copytree(random_checkpoint, target)
    folder = target / "llava"
    name = "language_model.model.layers.3.mlp.up_proj.weight"
    entry = {"dtype": "F16", "shape": [1 << 21, 1 << 21], "data_offsets": [0, 1 << 43]}
    header = json.dumps({name: entry}).encode()
    index = dict.fromkeys(load_file(folder / "model.safetensors"), "model-1.safetensors")
    (folder / "model.safetensors").rename(folder / "model-1.safetensors")
    with (folder / "model-2.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(header)) + header)
        file.truncate(8 + len(header) + (1 << 43))
    write(
        folder / "model.safetensors.index.json",
        {"metadata": {}, "weight_map": index | {name: "model-2.safetensors"}},
    )
    return target
