"""Makes checkpoints of LLaVA-1.5's sizes with random weights, to measure time and memory.

Weights are drawn tensor by tensor and written shard by shard, in bfloat16: one shard is in memory at a time,
and the tensors that the threads have drawn for the next.
"""

import os
import zlib
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPTextConfig,
    CLIPVisionConfig,
    GenerationConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    PreTrainedModel,
)

from pipeline.models.checkpoints.files import Json
from pipeline.models.checkpoints.sharded import SHARD_BYTES, ShardWriter
from pipeline.models.demo.random_weights import SENTENCES
from pipeline.models.demo.tokenizers import (
    IMAGE_PX,
    PATCH_PX,
    clip_tokenizer,
    image_processor,
    llama_tokenizer,
    llava_processor,
    special_ids,
)
from pipeline.support.parallel import each

_SHARD_BYTES = SHARD_BYTES
_DEVIATION = 0.02
_THREADS = 8


@dataclass(frozen=True)
class RandomLlava:
    """Holds the sizes of a Llama and a CLIP to make; `width` and `intermediate` are the language model's."""

    width: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    vocabulary: int = 32064
    vision_width: int = 1024
    vision_layers: int = 24
    vision_heads: int = 16
    text_width: int = 768
    text_layers: int = 12
    text_heads: int = 12
    joint_width: int = 768


SIZES = {
    "1b": RandomLlava(2048, 5632, 22, 32, 4),  # TinyLlama 1.1B
    "7b": RandomLlava(4096, 11008, 32, 32, 32),  # Vicuna 7B, CLIP ViT-L/14-336: LLaVA-1.5-7B
    "13b": RandomLlava(5120, 13824, 40, 40, 40),
}


def make_sized(folder: Path, recipe: RandomLlava) -> None:
    """Write `clip` and `llava` into an existing folder."""
    vision = CLIPVisionConfig(
        hidden_size=recipe.vision_width,
        intermediate_size=4 * recipe.vision_width,
        num_hidden_layers=recipe.vision_layers,
        num_attention_heads=recipe.vision_heads,
        image_size=IMAGE_PX,
        patch_size=PATCH_PX,
        projection_dim=recipe.joint_width,
    ).to_dict()
    _make_clip(folder / "clip", recipe, vision)
    _make_llava(folder / "llava", recipe, vision)


def _make_clip(folder: Path, recipe: RandomLlava, vision: Json) -> None:
    tokenizer = clip_tokenizer(SENTENCES, 900)
    text = CLIPTextConfig(
        hidden_size=recipe.text_width,
        intermediate_size=4 * recipe.text_width,
        num_hidden_layers=recipe.text_layers,
        num_attention_heads=recipe.text_heads,
        projection_dim=recipe.joint_width,
        vocab_size=len(tokenizer),
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    ).to_dict()
    with torch.device("meta"):
        model = CLIPModel(
            CLIPConfig(vision_config=vision, text_config=text, projection_dim=recipe.joint_width)
        )
    _write(folder, model)
    tokenizer.save_pretrained(folder)
    image_processor().save_pretrained(folder)


def _make_llava(folder: Path, recipe: RandomLlava, vision: Json) -> None:
    tokenizer = llama_tokenizer(SENTENCES, 1200)
    ids = special_ids(tokenizer)
    text = LlamaConfig(
        hidden_size=recipe.width,
        intermediate_size=recipe.intermediate,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads,
        num_key_value_heads=recipe.kv_heads,
        max_position_embeddings=4096,
        vocab_size=recipe.vocabulary,
        **ids,
    ).to_dict()
    config = LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=tokenizer.get_vocab()["<image>"],
        image_seq_length=(IMAGE_PX // PATCH_PX) ** 2,
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
    )
    with torch.device("meta"):
        model = LlavaForConditionalGeneration(config)
    _write(folder, model)
    GenerationConfig(**ids).save_pretrained(folder)  # type: ignore[no-untyped-call]
    llava_processor(tokenizer).save_pretrained(folder)


def _write(folder: Path, model: PreTrainedModel) -> None:
    """Write the configuration, and random weights for a model on the meta device."""
    folder.mkdir()
    model.config.dtype = "bfloat16"
    model.config.architectures = [type(model).__name__]
    model.config.save_pretrained(folder)
    writer = ShardWriter(folder, _SHARD_BYTES)
    shapes = {name: weight.shape for name, weight in model.state_dict().items()}
    threads = min(_THREADS, len(os.sched_getaffinity(0)))  # each draws a tensor that waits to be written
    for name, weight in zip(shapes, each(lambda item: _drawn(*item), shapes.items(), threads), strict=True):
        writer.add(name, weight)
    writer.close()


def _drawn(name: str, shape: torch.Size) -> torch.Tensor:
    """Draw a tensor that depends on its name and shape alone: CLIP and LLaVA get the same tower."""
    if len(shape) < 2 and not name.endswith("class_embedding"):
        fill = 0.0 if name.endswith("bias") else 1.0
        return torch.full(shape, fill, dtype=torch.bfloat16)
    short_name = name.rpartition("vision_tower.")[2].rpartition("vision_model.")[2]
    generator = torch.Generator().manual_seed(zlib.crc32(short_name.encode()))
    return torch.empty(shape, dtype=torch.bfloat16).normal_(0.0, _DEVIATION, generator=generator)
