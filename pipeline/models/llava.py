"""LLaVA without its eyes: projector, language model and tokenizer.

Legend: K visual tokens kept, L tokens of a prompt (visual ones included), D vision width, H language width.
"""

from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, Cache, GenerationConfig

from pipeline.models.checkpoints.layouts import LANGUAGE_KEYS
from pipeline.models.checkpoints.loading import load_part
from pipeline.models.prompts import Prompts


class LanguageModel(Prompts):
    """What answers: made from a LLaVA folder in any layout, in one file or in shards.

    The vision tower is never read; memory peaks near the language model's own weights.
    Raises ConfigError if weights of the projector or of the language model are missing.

    Attributes:
        model: the causal language model of transformers, in inference mode.
    """

    def __init__(
        self, folder: Path, *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
    ):
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        self.model = load_part(
            AutoModelForCausalLM,
            "language model",
            folder,
            dtype,
            config=config.text_config,
            key_mapping=LANGUAGE_KEYS,
        ).to(device)
        self.model.get_output_embeddings().register_forward_pre_hook(_contiguous)
        # How to decode is the run's configuration alone; checkpoints come with temperatures of their own.
        self.model.generation_config = GenerationConfig()
        super().__init__(folder, self.model.get_input_embeddings(), device=device, dtype=dtype)

    @torch.inference_mode()
    def prefill(self, token_ids: list[int]) -> Cache:
        """The keys and values of text at the beginning of a prompt, of a batch of one."""
        ids_1L = torch.tensor([token_ids], device=self.device)
        cache = self.model(input_ids=ids_1L, use_cache=True, logits_to_keep=1).past_key_values
        assert isinstance(cache, Cache)
        return cache


def _contiguous(_: Any, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    """As the last positions of a prefill's batch do not lie: torch would make a product for each of them, and
    for each, on a CPU, a copy of all of the output weights.
    """
    return tuple(hidden.contiguous() for hidden in inputs)
