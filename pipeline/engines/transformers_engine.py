"""Generates answers with transformers' `generate`, in batches of prompts of similar length.

The keys and values of the prompts' common beginning (their head) are computed once.

Legend: B requests of a batch, L tokens of the longest prompt (visual ones included), H language width.
"""

import copy
import gc
import logging
from collections.abc import Sequence
from time import perf_counter

import torch
from torch import Tensor
from transformers import (
    Cache,
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    StoppingCriteria,
    StoppingCriteriaList,
    StopStringCriteria,
)

from pipeline.engines.answers import (
    EncodedRequest,
    admit,
    make_answer,
    not_finite,
    share,
    tokens_before_eos,
)
from pipeline.engines.base import Answer, Request
from pipeline.engines.batches import pad_behind, plan_batches
from pipeline.engines.next_token import Draw, Finite, warpers
from pipeline.models.checkpoints.generation import choice_of
from pipeline.models.config import Decoding
from pipeline.models.llava import LanguageModel


class TransformersEngine:
    """Answers with transformers' language model on one device (an Engine of pipeline.engines.base)."""

    def __init__(
        self,
        language_model: LanguageModel,
        decoding: Decoding,
        *,
        token_budget: int,
        max_batch: int,
        prefix_cache: bool,
        group_by_kind: bool,
        seed: int,
    ) -> None:
        self.token_budget = token_budget
        self.max_batch = max_batch
        self.prefix_cache = prefix_cache
        self.group_by_kind = group_by_kind
        self.decoding = decoding
        self.seed = seed
        self._lm = language_model
        self._head: list[int] = []
        self._head_cache: Cache | None = None
        self._choice = choice_of(decoding, language_model.folder)
        # Tokens are drawn by `Draw`, so that the highest score is always the token that was chosen.
        self._generation = GenerationConfig(  # type: ignore[no-untyped-call]
            max_new_tokens=decoding.max_new_tokens,
            do_sample=False,
            eos_token_id=list(language_model.eos_token_ids),
            # Rows that ended early are filled with EOS, so that a row always ends at its first EOS.
            pad_token_id=language_model.eos_token_ids[0],
            **self._choice.scores,
        )
        self._stop_strings = _stop_strings(language_model, decoding)
        self._too_large: int | None = None  # tokens of the smallest batch that found no room

    def generate(self, requests: Sequence[Request]) -> list[Answer]:
        """Return one answer for each request, in order; a request too long for the model gets an error."""
        fitting, answers = admit(
            requests,
            self._lm,
            max_new_tokens=self.decoding.max_new_tokens,
            positions=self._lm.max_positions,
        )
        indices = list(fitting)
        for batch in self._batches(list(fitting.values())):
            chosen = [indices[i] for i in batch]
            found = self._run_in_memory([fitting[index] for index in chosen])
            answers.update(zip(chosen, found, strict=True))
        return [answers[i] for i in range(len(requests))]

    def _batches(self, fitting: Sequence[EncodedRequest]) -> list[list[int]]:
        """Group the indices of requests into batches that change no answer and end at like times.

        A batch runs until its longest answer ends: with `group_by_kind`, requests of another kind are in
        another batch.
        """
        groups: dict[tuple[int, str], list[int]] = {}
        for index, encoded in enumerate(fitting):
            kind = encoded.request.kind if self.group_by_kind else ""
            group = self._group(index, encoded.length), kind
            groups.setdefault(group, []).append(index)
        return [
            [group[at] for at in batch]
            for group in groups.values()
            for batch in plan_batches(
                [fitting[index].length for index in group], self.token_budget, self.max_batch
            )
        ]

    def _group(self, index: int, length: int) -> int:
        """Return the number of the group of requests that may share a batch.

        With longrope, the longest request of a batch decides how the positions of all are turned;
        `min_length` counts padding.
        """
        switch = self._lm.rope_switch
        passes = switch is not None and length <= switch < length + self.decoding.max_new_tokens
        if passes or self._lm.is_alone or "min_length" in self._choice.scores:
            return 2 + index
        return int(switch is not None and length > switch)

    def _run_in_memory(self, batch: list[EncodedRequest]) -> list[Answer]:
        """Answer a batch; one that finds no room on the device is run as two halves, again and again.

        A later batch as large as one that found none is halved at once.

        Raises:
            torch.OutOfMemoryError: there is no room for a single request.
        """
        longest = max(encoded.length for encoded in batch)
        tokens = len(batch) * (longest + self.decoding.max_new_tokens)
        if len(batch) == 1 or self._too_large is None or tokens < self._too_large:
            try:
                return self._run(batch)
            except torch.OutOfMemoryError:
                if len(batch) == 1:
                    raise
                self._too_large = tokens
            # only here, with the exception gone, nothing holds the batch's tensors any more
            gc.collect()
            if self._lm.device.type == "cuda":
                torch.cuda.empty_cache()
            logging.getLogger(__name__).warning(
                "%d requests of up to %d tokens find no room on the device and are answered as two batches; "
                "a smaller engine.token_budget or engine.max_batch avoids the second try",
                len(batch),
                longest,
            )
        half = len(batch) // 2
        return self._run_in_memory(batch[:half]) + self._run_in_memory(batch[half:])

    @torch.inference_mode()
    def _run(self, batch: list[EncodedRequest]) -> list[Answer]:
        started = perf_counter()
        embeds = [self._lm.embed_ids(encoded.token_ids, encoded.request.tokens_KD) for encoded in batch]
        head = self._head_of(batch)
        inputs_BLH, mask_BL = pad_behind(embeds, len(head))
        prefill = _PrefillClock(self._lm.device)
        ids_BL = self._ids(batch, inputs_BLH.shape[1], len(head))
        stops = _Stops(self._stop_strings, len(batch), skipped=ids_BL.shape[1])
        finite, processors = self._processors(batch)
        tokens_BG = self._lm.model.generate(
            input_ids=ids_BL if ids_BL.shape[1] else None,
            inputs_embeds=inputs_BLH,
            attention_mask=mask_BL,
            past_key_values=self._head_keys_and_values(head, len(batch)),
            generation_config=self._generation,
            logits_processor=LogitsProcessorList(processors),
            stopping_criteria=StoppingCriteriaList([prefill, stops]),
        )
        rows = tokens_BG[:, ids_BL.shape[1] :].tolist()
        ended = perf_counter()
        faults = finite.first_fault_B.tolist()
        prefill_s = share(prefill.ended - started, [encoded.length - len(head) for encoded in batch])
        decode_s = share(ended - prefill.ended, [tokens_before_eos(row, self._lm) for row in rows])
        return [
            self._answer(encoded, row, stopped, fault, seconds)
            for encoded, row, stopped, fault, *seconds in zip(
                batch, rows, stops.rows.tolist(), faults, prefill_s, decode_s, strict=True
            )
        ]

    def _answer(
        self, encoded: EncodedRequest, row: list[int], stopped: bool, fault: int, seconds: Sequence[float]
    ) -> Answer:
        """Make a row's answer; it failed if its scores were no numbers before it ended."""
        if not stopped and fault <= tokens_before_eos(row, self._lm):
            return not_finite(encoded, fault)
        prefill_s, decode_s = seconds
        return make_answer(
            encoded, row, self._lm, self.decoding, stopped=stopped, prefill_s=prefill_s, decode_s=decode_s
        )

    def _processors(self, batch: list[EncodedRequest]) -> tuple[Finite, list[LogitsProcessor]]:
        """Make what works on a batch's scores: first the test for faults, last the draw."""
        end = self._lm.eos_token_ids[0]
        finite = Finite(len(batch), end, may_exclude=bool(self._choice.scores))
        if not self._choice.sampled:
            return finite, [finite]
        draw = Draw(self.seed, [encoded.request.key for encoded in batch])
        return finite, [finite, *warpers(self._choice.sampled), draw]

    def _head_of(self, batch: list[EncodedRequest]) -> list[int]:
        """Return the head whose keys are computed once.

        There is none if padding behind it would fill a window, or the whole prompt turns its positions
        by other angles than the head alone.
        """
        longest = max(encoded.length for encoded in batch) + self.decoding.max_new_tokens
        limits = [limit for limit in (self._lm.window, self._lm.rope_switch) if limit is not None]
        if not self.prefix_cache or self._lm.is_alone or longest > min(limits, default=longest):
            return []
        return self._lm.head([encoded.token_ids for encoded in batch])

    def _ids(self, batch: list[EncodedRequest], length: int, head: int) -> Tensor:
        """Return the prompts' ids [B, L] for processors that look at them; [B, 0] if there are none.

        Visual tokens have the image token's id, as in LLaVA's own prompts. So has padding, or the id that a
        prompt begins with where the image token has none: both are in the prompt already.
        """
        if not self._choice.scores:
            return torch.empty(len(batch), 0, dtype=torch.int64, device=self._lm.device)
        image = self._lm.image_token_id
        rows = []
        for encoded in batch:
            ids, filler = encoded.token_ids, image if image >= 0 else encoded.token_ids[0]
            at = ids.index(image)
            whole = ids[:at] + [filler] * len(encoded.request.tokens_KD) + ids[at + 1 :]
            rows.append(whole[:head] + [filler] * (length - len(whole)) + whole[head:])
        return torch.tensor(rows, device=self._lm.device)

    def _head_keys_and_values(self, head: list[int], count: int) -> Cache | None:
        """Return the head's keys and values, repeated for `count` prompts; computed once for each head.

        `generate` still receives the whole inputs, and skips as many tokens as the cache holds.
        """
        if not head:
            return None
        if self._head_cache is None or self._head != head:
            self._head, self._head_cache = head, self._lm.prefill(head)
        cache = copy.deepcopy(self._head_cache)
        cache.batch_repeat_interleave(count)
        return cache


class _PrefillClock(StoppingCriteria):
    """Records when the first token was generated; never stops the generation."""

    def __init__(self, device: torch.device) -> None:
        self.ended = 0.0
        self._device = device

    def __call__(self, input_ids: Tensor, scores: object, **kwargs: object) -> Tensor:
        if not self.ended:
            if self._device.type != "cpu":
                torch.accelerator.synchronize(self._device)  # once a batch
            self.ended = perf_counter()
        return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)


class _Stops(StoppingCriteria):
    """Ends a row at a stop string, and records in `rows` which rows have had one.

    `skipped` counts the ids of the prompt with which each row begins.
    """

    def __init__(self, strings: StopStringCriteria | None, count: int, skipped: int) -> None:
        self.rows = torch.zeros(count, dtype=torch.bool)
        self._strings, self._skipped = strings, skipped

    def __call__(self, input_ids: Tensor, scores: Tensor, **kwargs: object) -> Tensor:
        self.rows = self.rows.to(input_ids.device)
        if self._strings is not None:
            self.rows |= self._strings(input_ids[:, self._skipped :], scores)
        return self.rows


def _stop_strings(language_model: LanguageModel, decoding: Decoding) -> StopStringCriteria | None:
    """Make the test of stop strings; None if there are none, or no token can end one."""
    if not decoding.stop:
        return None
    try:
        return StopStringCriteria(language_model.tokenizer, list(decoding.stop))
    except ValueError:
        return None
