"""Writes trained weights in float16, as `from_pretrained` of CLIPModel and of LLaVA read them."""

from pathlib import Path
from typing import Any

import torch
from transformers import (
    CLIPModel,
    CLIPTokenizer,
    GenerationConfig,
    LlamaTokenizer,
    LlavaForConditionalGeneration,
)

from pipeline.models.checkpoints.loading import quiet
from pipeline.models.demo.tokenizers import image_processor, llava_processor, special_ids
from pipeline.train_demo.language import Parts, llava_config

DTYPE = torch.float16


def write_clip(folder: Path, clip: CLIPModel, tokenizer: CLIPTokenizer) -> None:
    """Write a folder for CLIPModel, CLIPTokenizer and the image processor."""
    with quiet():
        twin: Any = CLIPModel(clip.config)  # the library's `to` and `save_pretrained` have no usable types
        twin.load_state_dict(clip.state_dict())
        twin.to(DTYPE).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        image_processor().save_pretrained(folder)


def write_llava(folder: Path, clip: CLIPModel, parts: Parts, tokenizer: LlamaTokenizer) -> None:
    """Write a folder for LlavaForConditionalGeneration and LlavaProcessor, the tower included."""
    config = llava_config(tokenizer, clip.vision_model.config)
    ids = special_ids(tokenizer)
    with quiet():
        llava: Any = LlavaForConditionalGeneration(config)  # as above
        llava.model.vision_tower.load_state_dict(clip.vision_model.state_dict())
        llava.model.multi_modal_projector.load_state_dict(parts.projector.state_dict())
        llava.model.language_model.load_state_dict(parts.language.model.state_dict())
        llava.lm_head.load_state_dict(parts.language.lm_head.state_dict())
        llava.generation_config = GenerationConfig(**ids)  # type: ignore[no-untyped-call]
        llava.to(DTYPE).save_pretrained(folder)
        llava_processor(tokenizer).save_pretrained(folder)
