"""Make a tiny SigLIP and a LLaVA on it, with random weights, in the hub's layouts.

As in llava-interleave-qwen: a side that is no multiple of the patch, a tower without SigLIP's last layer and
with fine-tuned weights, a Qwen2 that ties output weights and embeddings, a byte-level tokenizer without BOS.
"""

import io
import json
import math
from pathlib import Path

import sentencepiece
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from torch import nn
from transformers import (
    GenerationConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    Qwen2Config,
    Qwen2Tokenizer,
    SiglipConfig,
    SiglipImageProcessorPil,
    SiglipModel,
    SiglipTokenizer,
)

from pipeline.models.demo.random_weights import SENTENCES

SIDE, PATCH, GRID = 73, 14, 5  # pixels a side: five patches and three more pixels
LAYERS, POSITIONS = 3, 16  # layers of the vision tower; positions of the text tower
TEMPLATE = "<|im_start|>user <image>\n{question}<|im_end|><|im_start|>assistant\n"
_VISION = {"hidden_size": 48, "intermediate_size": 80, "num_attention_heads": 4, "image_size": SIDE}
_VISION |= {"patch_size": PATCH}


def make_siglip(folder: Path) -> Path:
    """Write the checkpoints `folder/clip` and `folder/llava`."""
    generator = torch.Generator().manual_seed(0)
    siglip = _make_both_towers(folder / "clip", generator)
    _make_llava(folder / "llava", siglip, generator)
    return folder


def _make_both_towers(folder: Path, generator: torch.Generator) -> SiglipModel:
    folder.mkdir(parents=True)
    (folder / "spiece.model").write_bytes(_pieces())
    tokenizer = SiglipTokenizer(str(folder / "spiece.model"), model_max_length=POSITIONS)
    text = {"hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 2, "num_attention_heads": 4}
    text |= {"vocab_size": tokenizer.vocab_size, "max_position_embeddings": POSITIONS}
    config = SiglipConfig(vision_config=_VISION | {"num_hidden_layers": LAYERS}, text_config=text)
    model = SiglipModel(config).eval()
    _randomise(model, generator)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    _image_processor().save_pretrained(folder)
    return model


def _make_llava(folder: Path, siglip: SiglipModel, generator: torch.Generator) -> None:
    tokenizer = _qwen_tokenizer()
    ids = {"eos_token_id": tokenizer.eos_token_id, "bos_token_id": None, "pad_token_id": None}
    vision = _VISION | {"model_type": "siglip_vision_model", "vision_use_head": False}
    text = Qwen2Config(
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=len(tokenizer),
        tie_word_embeddings=True,
        **ids,
    )
    config = LlavaConfig(
        vision_config=vision | {"num_hidden_layers": LAYERS - 1},
        text_config=text.to_dict(),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
        tie_word_embeddings=True,
    )
    model = LlavaForConditionalGeneration(config)
    _randomise(model, generator)
    _tune(model.model.vision_tower, siglip.vision_model, generator)
    model.generation_config = GenerationConfig(eos_token_id=tokenizer.eos_token_id)
    model.save_pretrained(folder)
    LlavaProcessor(
        _image_processor(),
        tokenizer,
        patch_size=PATCH,
        vision_feature_select_strategy="full",
        image_token="<image>",
        num_additional_image_tokens=0,
    ).save_pretrained(folder)


def _tune(tower: nn.Module, origin: nn.Module, generator: torch.Generator) -> None:
    """Copy the weights with some noise added, like fine-tuned weights."""
    original = origin.state_dict()
    with torch.no_grad():
        for name, weight in tower.named_parameters():
            noise = torch.empty_like(weight).normal_(generator=generator)
            weight.copy_(original[name] + 0.02 * original[name].std() * noise)


def _randomise(model: nn.Module, generator: torch.Generator) -> None:
    """Draw weights with sharp attention and strong layers, so that answers depend on the image."""
    loud = {"o_proj": 2.0, "down_proj": 3.0, "out_proj": 1.5, "embed_tokens": 0.5, "linear_2": 2.0}
    with torch.no_grad():
        for name, weight in model.named_parameters():
            scale = next((value for part, value in loud.items() if part in name), 1.5)
            if weight.ndim < 2:
                weight += 0.1 * torch.empty_like(weight).normal_(generator=generator)
            else:
                fan_in = 1 if "embed" in name and "patch" not in name else math.prod(weight.shape[1:])
                weight.normal_(0.0, scale / math.sqrt(fan_in), generator=generator)


def _image_processor() -> SiglipImageProcessorPil:
    return SiglipImageProcessorPil(size={"height": SIDE, "width": SIDE})


def _pieces() -> bytes:
    """Train a spiece.model like SigLIP's: no BOS, `</s>` is number 1 and `<unk>` number 2."""
    sink = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(SENTENCES * 3),
        model_writer=sink,
        vocab_size=200,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        minloglevel=2,
    )
    return sink.getvalue()


def _qwen_tokenizer() -> Qwen2Tokenizer:
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(vocab_size=500, special_tokens=letters, show_progress=False)
    trained.train_from_iterator(SENTENCES, trainer)
    model = json.loads(trained.to_str())["model"]
    tokenizer = Qwen2Tokenizer(
        vocab=model["vocab"], merges=[tuple(pair) for pair in model["merges"]], eos_token="<|im_end|>"
    )
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<image>"]})
    return tokenizer


def relaid(folder: Path, **prefixes: str) -> None:
    """Rename the weights by their prefixes, to the names that other library versions wrote."""
    weights = load_file(folder / "model.safetensors")
    for old, new in prefixes.items():
        start = f"{old.replace('__', '.')}."
        weights = {
            name.replace(start, f"{new}.", 1) if name.startswith(start) else name: weight
            for name, weight in weights.items()
        }
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
