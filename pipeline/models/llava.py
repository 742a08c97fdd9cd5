"""LLaVA without its eyes: projector, language model and tokenizer.

Legend: K visual tokens kept, L tokens of a prompt (visual ones included), D vision width, H language width.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, Cache, GenerationConfig
from transformers.models.llava.modeling_llava import LlavaMultiModalProjector

from pipeline.errors import ConfigError
from pipeline.models.checkpoint import PROJECTOR, weight_files
from pipeline.models.loading import load_part, refuse_gaps

# Where the language model's weights lie in a LLaVA checkpoint -> where they lie in the model alone. The first
# two are the published layout, the last that of transformers 5, whose lm_head needs no renaming.
LANGUAGE_KEYS = {
    r"^language_model\.model\.": "model.",
    r"^language_model\.lm_head\.": "lm_head.",
    r"^model\.language_model\.": "model.",
}


class LanguageModel:
    """What answers: made from a LLaVA folder in either layout, in one file or in shards.

    The vision tower is never read; memory peaks near the language model's own weights.
    Raises ConfigError if weights of the projector or of the language model are missing.

    Attributes:
        model: the causal language model of transformers, in inference mode.
        tokenizer: the checkpoint's.
        max_positions: tokens that fit, visual and generated ones included.
        eos_token_ids: any of these ends an answer.
    """

    def __init__(
        self, folder: Path, *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
    ):
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        self.device = torch.device(device)
        self.model = load_part(
            AutoModelForCausalLM,
            "language model",
            folder,
            dtype,
            config=config.text_config,
            key_mapping=LANGUAGE_KEYS,
        ).to(self.device)
        self.projector = load_projector(folder, dtype).to(self.device)
        self.tokenizer: Any = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        self.max_positions: int = config.text_config.max_position_embeddings
        self.image_token_id: int = config.image_token_id
        self.eos_token_ids = _eos_token_ids(folder, self.model)
        # How to decode is the run's configuration alone; checkpoints come with temperatures of their own.
        self.model.generation_config = GenerationConfig()
        if self.tokenizer.convert_tokens_to_ids("<image>") != self.image_token_id:
            raise ConfigError(f"{folder}: <image> is not token {self.image_token_id} of the tokenizer")

    @torch.inference_mode()
    def project(self, tokens_KD: Tensor) -> Tensor:
        """Visual tokens of any dtype and device -> [K, H] in the model's dtype, on its device."""
        return self.projector(tokens_KD.to(self.device, self.model.dtype))

    def tokenize(self, prompt: str) -> list[int]:
        """Token ids as the checkpoint's processor gives them, but one image token, not one for each patch."""
        return self.tokenizer(prompt)["input_ids"]

    def head(self, prompts: Sequence[list[int]]) -> list[int]:
        """What all prompts begin with, up to their images."""
        heads = [ids[: ids.index(self.image_token_id)] for ids in prompts]
        return heads[0] if all(head == heads[0] for head in heads) else []

    @torch.inference_mode()
    def prefill(self, token_ids: list[int]) -> Cache:
        """The keys and values of text at the beginning of a prompt, of a batch of one."""
        ids_1L = torch.tensor([token_ids], device=self.device)
        cache = self.model(input_ids=ids_1L, use_cache=True, logits_to_keep=1).past_key_values
        assert isinstance(cache, Cache)
        return cache

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
        text_LH = self.model.get_input_embeddings()(text_ids)
        return torch.cat([text_LH[:at], self.project(tokens_KD), text_LH[at:]])


def load_projector(folder: Path, dtype: torch.dtype) -> nn.Module:
    """What makes visual tokens [..., D] embeddings [..., H] of the language model; nothing else is read."""
    config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    weights = {}
    for file in weight_files(folder):
        with safe_open(file, framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118 - not a dict
                if PROJECTOR.match(name):
                    weights[PROJECTOR.sub("", name)] = tensors.get_tensor(name).to(dtype)
    with torch.device("meta"):
        projector = LlavaMultiModalProjector(config)
    expected = projector.state_dict()
    mismatched = {
        name for name in expected if name in weights and weights[name].shape != expected[name].shape
    }
    refuse_gaps(folder, "projector", set(expected) - set(weights), mismatched)
    projector.load_state_dict({name: weights[name] for name in expected}, assign=True)
    return projector.eval().requires_grad_(False)


def _eos_token_ids(folder: Path, model: Any) -> tuple[int, ...]:
    """From the generation config, else from the model's."""
    eos = model.generation_config.eos_token_id
    eos = model.config.eos_token_id if eos is None else eos
    if eos is None:
        raise ConfigError(f"{folder}: neither generation_config.json nor config.json names an eos_token_id")
    return (eos,) if isinstance(eos, int) else tuple(eos)
