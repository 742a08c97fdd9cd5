"""Prompts of text and visual tokens, as a language model's input embeddings.

Legend: K visual tokens kept, L tokens of a prompt (visual ones included), D vision width, H language width.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn
from transformers import AutoConfig, AutoTokenizer
from transformers.models.llava.modeling_llava import LlavaMultiModalProjector

from pipeline.models.checkpoints.fit import IMAGE_TOKEN
from pipeline.models.checkpoints.layouts import projector_name
from pipeline.models.checkpoints.loading import fill
from pipeline.models.checkpoints.tensors import weight_files
from pipeline.support.errors import ConfigError

_TABLE = "embed_tokens.weight"


class Prompts:
    """A LLaVA's tokenizer and projector, with the table of its language model's text embeddings.

    Raises ConfigError if weights of the projector are missing, or the tokenizer is not the model's.

    Attributes:
        tokenizer: the checkpoint's.
        max_positions: tokens that fit, visual and generated ones included.
        eos_token_ids: any of these ends an answer.
    """

    def __init__(
        self, folder: Path, table: nn.Module, *, device: torch.device | str, dtype: torch.dtype
    ) -> None:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        self.device = torch.device(device)
        self.dtype = dtype
        self.table = table.to(self.device, dtype)
        self.projector = load_projector(folder, dtype).to(self.device)
        self.tokenizer: Any = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        self.max_positions: int = config.text_config.max_position_embeddings
        self.image_token_id: int = config.image_token_id
        self.eos_token_ids = _eos_token_ids(folder, config.text_config)
        known = self.tokenizer.convert_tokens_to_ids(IMAGE_TOKEN) == self.image_token_id
        if self.image_token_id >= 0 and not known:
            raise ConfigError(f"{folder}: {IMAGE_TOKEN} is not token {self.image_token_id} of the tokenizer")

    @torch.inference_mode()
    def project(self, tokens_KD: Tensor) -> Tensor:
        """Visual tokens of any dtype and device -> [K, H] in the model's dtype, on its device."""
        return self.projector(tokens_KD.to(self.device, self.dtype))

    def tokenize(self, prompt: str) -> list[int]:
        """Token ids as the checkpoint's processor gives them, but one image token, not one for each patch.

        A model in the original layout has no such token, but a negative number for it: what stands before and
        after `<image>` is tokenised apart, as its own code does (tokenizer_image_token in llava/mm_utils.py).
        """
        if self.image_token_id >= 0:
            return self.tokenizer(prompt)["input_ids"]
        before, _, after = prompt.partition(IMAGE_TOKEN)
        front, back = (self.tokenizer(text)["input_ids"] for text in (before, after))
        begins = len(self.tokenizer("")["input_ids"])  # BOS, which a prompt has but once
        return [*front, self.image_token_id, *back[begins:]]

    def head(self, prompts: Sequence[list[int]]) -> list[int]:
        """What all prompts begin with, up to their images."""
        heads = [ids[: ids.index(self.image_token_id)] for ids in prompts]
        return heads[0] if all(head == heads[0] for head in heads) else []

    def embed(self, prompt: str, tokens_KD: Tensor) -> tuple[Tensor, int]:
        """The input embeddings [L, H] of a prompt that holds `<image>` exactly once, and its text tokens.

        The projected visual tokens stand where the image token stands: L = K + text tokens.
        """
        token_ids = self.tokenize(prompt)
        return self.embed_ids(token_ids, tokens_KD), len(token_ids) - 1

    @torch.inference_mode()
    def embed_ids(self, token_ids: list[int], tokens_KD: Tensor) -> Tensor:
        """As `embed`, of a prompt that is tokenised already."""
        at = token_ids.index(self.image_token_id)
        text_ids = torch.tensor(token_ids[:at] + token_ids[at + 1 :], device=self.device)
        text_LH = self.table(text_ids)
        return torch.cat([text_LH[:at], self.project(tokens_KD), text_LH[at:]])


def load_projector(folder: Path, dtype: torch.dtype) -> nn.Module:
    """What makes visual tokens [..., D] embeddings [..., H] of the language model; nothing else is read."""
    config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    with torch.device("meta"):
        projector = LlavaMultiModalProjector(config)
    return fill(projector, "projector", folder, projector_name, dtype)


def load_table(folder: Path) -> nn.Embedding:
    """The text embeddings of a LLaVA's language model, as they are stored; nothing else is read.

    Raises ConfigError if the checkpoint has none, or several.
    """
    found = []
    for file in weight_files(folder):
        with safe_open(file, framework="pt") as tensors:
            names = [name for name in tensors.keys() if name.endswith(_TABLE)]  # noqa: SIM118 - not a dict
            found += [tensors.get_tensor(name) for name in names]
    if len(found) != 1:
        raise ConfigError(f"{folder} holds {len(found)} tables of text embeddings ({_TABLE}), not one")
    count, width = found[0].shape
    return nn.Embedding(count, width, _weight=found[0]).eval().requires_grad_(False)


def _eos_token_ids(folder: Path, config: Any) -> tuple[int, ...]:
    """From the generation config, else from the language model's."""
    file = folder / "generation_config.json"
    eos = json.loads(file.read_bytes()).get("eos_token_id") if file.is_file() else None
    eos = config.eos_token_id if eos is None else eos
    if eos is None:
        raise ConfigError(f"{folder}: neither generation_config.json nor config.json names an eos_token_id")
    return (eos,) if isinstance(eos, int) else tuple(eos)
