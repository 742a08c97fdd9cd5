"""Runs the loop that users write without Trimline: transformers' LLaVA on all tokens, with `generate`.

Legend: B requests of a batch, S pixels a side.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import (
    AutoProcessor,
    LlavaForConditionalGeneration,
)

from pipeline.models.checkpoints.kinds import kind_of
from pipeline.models.checkpoints.loading import load_config
from pipeline.models.checkpoints.vision_tower import tower_folder
from pipeline.models.devices import synchronized_time
from pipeline.models.encoder import encoder_class
from pipeline.models.llava import LanguageModel


class PlainLoop:
    """Answers with `LlavaForConditionalGeneration`, which shares the weights of the loaded language model.

    It runs on the language model's device. Its vision tower is loaded a second time, since the library runs
    all of its layers.
    """

    def __init__(
        self, folder: Path, clip: Path | None, language_model: LanguageModel, encode_dtype: torch.dtype
    ):
        config = load_config(folder)
        with torch.device("meta"):
            model = LlavaForConditionalGeneration(config)
        tower = encoder_class(kind_of(config.to_dict())).library_tower(
            tower_folder(folder, clip), encode_dtype
        )
        model.model.vision_tower = tower.to(language_model.device)
        model.model.multi_modal_projector = language_model.projector
        model.model.language_model = language_model.model.model
        model.lm_head = language_model.model.lm_head
        model.train(False)
        self._model: Any = model  # the types of `generate` are the library's mixins'
        load_processor: Callable[..., Any] = AutoProcessor.from_pretrained  # has no types
        self._processor = load_processor(folder, trust_remote_code=False)
        self._dtype, self._device = encode_dtype, language_model.device
        self._encode_s = 0.0
        self._began = 0.0
        tower.register_forward_pre_hook(self._encoding)
        tower.register_forward_hook(self._encoded)

    def answer(
        self, prompts: Sequence[str], pixels_BCSS: Tensor, batch: int, new_tokens: int
    ) -> tuple[float, float, list[list[int]]]:
        """Answer all prompts; returns seconds of the vision tower, of the rest, and each answer's tokens."""
        self._encode_s, started = 0.0, synchronized_time(self._device)
        answers = []
        for first in range(0, len(prompts), batch):
            answers += self._batch(
                prompts[first : first + batch], pixels_BCSS[first : first + batch], new_tokens
            )
        encode_s = self._encode_s
        return encode_s, synchronized_time(self._device) - started - encode_s, answers

    @torch.inference_mode()
    def _batch(self, prompts: Sequence[str], pixels_BCSS: Tensor, new_tokens: int) -> list[list[int]]:
        tokenizer, patches = (
            self._processor.tokenizer,
            (pixels_BCSS.shape[-1] // self._processor.patch_size) ** 2,
        )
        texts = [prompt.replace("<image>", "<image>" * patches) for prompt in prompts]
        inputs = tokenizer(texts, padding=True, padding_side="left", return_tensors="pt").to(self._device)
        tokens_BL = self._model.generate(
            **inputs,
            pixel_values=pixels_BCSS.to(self._device, self._dtype),
            max_new_tokens=new_tokens,
            min_new_tokens=new_tokens,
            do_sample=False,
        )
        answers: list[list[int]] = tokens_BL[:, inputs.input_ids.shape[1] :].tolist()
        return answers

    def _encoding(self, *_: object) -> None:
        self._began = synchronized_time(self._device)

    def _encoded(self, *_: object) -> None:
        self._encode_s += synchronized_time(self._device) - self._began
