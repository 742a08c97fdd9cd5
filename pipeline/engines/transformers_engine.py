"""Answers by transformers' own `generate`, in batches of similar length whose common head is computed once.

Legend: B requests of a batch, L tokens of the longest prompt (visual ones included), H language width.
"""

import copy
import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from time import perf_counter
from typing import Any

import torch
from torch import Tensor
from transformers import Cache, GenerationConfig, StoppingCriteria, StoppingCriteriaList

from pipeline.engines.answers import Asked, admit, answered, length_of, share
from pipeline.engines.base import Answer, Request
from pipeline.models.config import Decoding
from pipeline.models.llava import LanguageModel


class TransformersEngine:
    """An Engine (pipeline.engines.base) on one device."""

    def __init__(
        self,
        language_model: LanguageModel,
        decoding: Decoding,
        *,
        token_budget: int,
        max_batch: int,
        prefix_cache: bool,
        seed: int,
    ) -> None:
        self.token_budget = token_budget
        self.max_batch = max_batch
        self.prefix_cache = prefix_cache
        self.decoding = decoding
        self.seed = seed
        self._lm = language_model
        self._head: list[int] = []
        self._head_cache: Any = None
        sampling = {}
        if decoding.temperature > 0:
            sampling = {"temperature": decoding.temperature, "top_p": decoding.top_p, "top_k": 0}
        self._generation = GenerationConfig(
            max_new_tokens=decoding.max_new_tokens,
            do_sample=bool(sampling),
            eos_token_id=list(language_model.eos_token_ids),
            # Whatever ended a row, what follows is EOS: the row is what stands before the first one.
            pad_token_id=language_model.eos_token_ids[0],
            stop_strings=list(decoding.stop) or None,
            **sampling,
        )

    def generate(self, requests: Sequence[Request]) -> list[Answer]:
        """One answer for each request, in order; one that is too long for the model gets an error instead."""
        fit, answers = admit(
            requests,
            self._lm,
            max_new_tokens=self.decoding.max_new_tokens,
            positions=self._lm.max_positions,
        )
        places = list(fit)
        lengths = [asked.length for asked in fit.values()]
        for batch in plan_batches(lengths, self.token_budget, self.max_batch):
            chosen = [places[i] for i in batch]
            answers.update(zip(chosen, self._run([fit[place] for place in chosen]), strict=True))
        return [answers[i] for i in range(len(requests))]

    @torch.inference_mode()
    def _run(self, batch: list[Asked]) -> list[Answer]:
        started = perf_counter()
        embeds = [self._lm.embed_ids(asked.token_ids, asked.request.tokens_KD) for asked in batch]
        head = self._lm.head([asked.token_ids for asked in batch]) if self.prefix_cache else []
        inputs_BLH, mask_BL = pad_behind(embeds, len(head))
        clock = _Prefill(self._lm.device)
        with self._random_numbers([asked.request for asked in batch]):
            tokens_BG = self._lm.model.generate(
                inputs_embeds=inputs_BLH,
                attention_mask=mask_BL,
                past_key_values=self._prefilled(head, len(batch)),
                generation_config=self._generation,
                stopping_criteria=StoppingCriteriaList([clock]),
                tokenizer=self._lm.tokenizer,
            )
        rows = tokens_BG.tolist()
        stopped = perf_counter()
        prefill = share(clock.stopped - started, [asked.length - len(head) for asked in batch])
        decode = share(stopped - clock.stopped, [length_of(row, self._lm) for row in rows])
        return [
            answered(asked, row, self._lm, self.decoding, prefill_s=prefill_s, decode_s=decode_s)
            for asked, row, prefill_s, decode_s in zip(batch, rows, prefill, decode, strict=True)
        ]

    def _prefilled(self, head: list[int], count: int) -> Cache | None:
        """The keys and values of what all prompts begin with, for a batch; computed once.

        `generate` takes all of the inputs beside it, and leaves out as many as the cache holds.
        """
        if not head:
            return None
        if self._head != head:
            self._head, self._head_cache = head, self._lm.prefill(head)
        cache = copy.deepcopy(self._head_cache)
        cache.batch_repeat_interleave(count)
        return cache

    @contextmanager
    def _random_numbers(self, requests: list[Request]) -> Iterator[None]:
        """When sampling, random numbers that are a function of the seed and the batch alone."""
        if not self._generation.do_sample:
            yield
            return
        batch = [(request.prompt, len(request.tokens_KD)) for request in requests]
        digest = hashlib.sha256(json.dumps([self.seed, batch]).encode()).digest()
        device = self._lm.device
        devices: list[Any] = [] if device.type == "cpu" else [device]
        kind = "cuda" if device.type == "cpu" else device.type
        with torch.random.fork_rng(devices=devices, device_type=kind):
            torch.manual_seed(int.from_bytes(digest[:8], "big"))
            yield


def plan_batches(lengths: Sequence[int], token_budget: int, max_batch: int) -> list[list[int]]:
    """Indices of `lengths` in batches of similar length, the longest first: memory runs out at once or never.

    The number of a batch's members times its longest is at most token_budget, unless it is a single one.
    """
    batches: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        longest = lengths[batches[-1][0]] if batches else 0
        if not batches or len(batches[-1]) == max_batch or (len(batches[-1]) + 1) * longest > token_budget:
            batches.append([])
        batches[-1].append(index)
    return batches


def pad_behind(embeds: Sequence[Tensor], head: int) -> tuple[Tensor, Tensor]:
    """Sequences [*, H] -> (inputs_BLH, attention mask_BL, int64), padded with zeros behind the first `head`.

    The ends stand in line, and so do the heads, which all sequences have in common.
    """
    longest = max(len(sequence) for sequence in embeds)
    inputs_BLH = embeds[0].new_zeros(len(embeds), longest, embeds[0].shape[1])
    mask_BL = torch.zeros(inputs_BLH.shape[:2], dtype=torch.int64, device=inputs_BLH.device)
    for row, sequence in enumerate(embeds):
        rest = len(sequence) - head
        inputs_BLH[row, :head], inputs_BLH[row, longest - rest :] = sequence[:head], sequence[head:]
        mask_BL[row, :head] = mask_BL[row, longest - rest :] = 1
    return inputs_BLH, mask_BL


class _Prefill(StoppingCriteria):
    """Stops nothing; notes when the first token was there."""

    def __init__(self, device: torch.device):
        self.stopped = 0.0
        self._device = device

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Any:
        if not self.stopped:
            if self._device.type != "cpu":
                torch.accelerator.synchronize(self._device)  # once a batch
            self.stopped = perf_counter()
        return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)
