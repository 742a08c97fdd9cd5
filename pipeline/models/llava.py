"""Loads LLaVA's projector, language model and tokenizer, without the vision tower.

Legend: K visual tokens kept, L tokens of a prompt (visual ones included), D vision width, H language width.
"""

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, Cache, GenerationConfig

from pipeline.models.checkpoints.layouts import LANGUAGE_KEYS, language_name
from pipeline.models.checkpoints.loading import load_config, load_part
from pipeline.models.checkpoints.parts import Part, make_part
from pipeline.models.prompts import Prompts, projector_part
from pipeline.support.turns import turn


class LanguageModel(Prompts):
    """Holds a LLaVA's language model, projector and tokenizer, loaded from a folder in any layout.

    The vision tower is never read; memory peaks near the language model's own weights.
    Raises ConfigError if weights of the projector or of the language model are missing.

    Attributes:
        model: the causal language model of transformers, in inference mode.
        window: the fewest tokens that a layer attends to; None if all layers attend to all tokens.
        rope_switch: the length beyond which all positions are turned by other angles; None without one.
        is_alone: padding changes its answers, so that each request is a batch of its own.
    """

    def __init__(
        self, folder: Path, *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
    ):
        config = load_config(folder)
        on_cpu = torch.device(device).type == "cpu"
        # on the way to a GPU the weights take this machine's memory: for one of its processes at a time
        with nullcontext() if on_cpu else turn("weights"):
            self.model = load_part(
                AutoModelForCausalLM,
                "language model",
                folder,
                dtype,
                config=config.text_config,
                key_mapping=LANGUAGE_KEYS,
            ).to(device)
        self.window = window_of(config.text_config)
        self.rope_switch = rope_switch_of(config.text_config)
        self.is_alone = is_alone(config.text_config)
        self.model.get_output_embeddings().register_forward_pre_hook(_contiguous)
        # The run's configuration alone decides how to decode; checkpoints bring temperatures of their own.
        self.model.generation_config = GenerationConfig()  # type: ignore[no-untyped-call]
        super().__init__(folder, self.model.get_input_embeddings(), device=device, dtype=dtype)

    @torch.inference_mode()
    def prefill(self, token_ids: list[int]) -> Cache:
        """Compute keys and values of the text at the beginning of a prompt, for a batch of one."""
        ids_1L = torch.tensor([token_ids], device=self.device)
        cache = self.model(input_ids=ids_1L, use_cache=True, logits_to_keep=1).past_key_values
        assert isinstance(cache, Cache)
        return cache


def language_parts(folder: Path) -> list[Part]:
    """Describe the parts of a LLaVA that `LanguageModel` reads."""
    text = load_config(folder).text_config
    language = make_part("language model", folder, lambda: _without_weights(text), language_name)
    return [language, projector_part(folder)]


def window_of(text_config: Any) -> int | None:
    """Return the length of a language model's sliding windows; None if no layer has one."""
    kinds = getattr(text_config, "layer_types", None)
    if kinds is not None and all(kind == "full_attention" for kind in kinds):
        return None
    sizes = [getattr(text_config, name, None) for name in ("sliding_window", "attention_chunk_size")]
    return min((size for size in sizes if size), default=None)


def rope_switch_of(text_config: Any) -> int | None:
    """Return the length beyond which a language model with longrope takes its long factors; None without."""
    parameters = getattr(text_config, "rope_parameters", None) or {}
    kinds = [parameters, *(kind for kind in parameters.values() if isinstance(kind, dict))]
    lengths = [
        kind["original_max_position_embeddings"] for kind in kinds if kind.get("rope_type") == "longrope"
    ]
    return min(lengths, default=None)


def is_alone(text_config: Any) -> bool:
    """Tell whether padding changes a language model's answers.

    It does where layers keep a state instead of keys (linear attention, Mamba), or where chunks or scales of
    attention (Llama 4) are counted from the first token, padding or not.
    """
    kinds = set(getattr(text_config, "layer_types", None) or ())
    counted = getattr(text_config, "attn_temperature_tuning", False)
    return bool(kinds - {"full_attention", "sliding_attention", "attention"} or counted)


def _without_weights(text_config: Any) -> torch.nn.Module:
    model: torch.nn.Module = AutoModelForCausalLM.from_config(text_config)  # type: ignore[no-untyped-call]
    return model


def _contiguous(_: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    """Make the last hidden states of a prefill's batch contiguous before the output layer.

    Otherwise torch multiplies row by row, and on a CPU copies the output weights each time.
    """
    return tuple(hidden.contiguous() for hidden in inputs)
