"""Chooses the next tokens of a batch: draws them when sampling, and finds logits that are no numbers.

Legend: B requests of a batch, V tokens of the vocabulary.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import (
    LogitsProcessor,
    MinLengthLogitsProcessor,
    MinNewTokensLengthLogitsProcessor,
    MinPLogitsWarper,
    NoBadWordsLogitsProcessor,
    NoRepeatNGramLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    SuppressTokensLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
    TypicalLogitsWarper,
)

_NEVER = 1 << 60  # a step that no answer reaches


def warpers(sampled: dict[str, Any]) -> list[LogitsProcessor]:
    """Make transformers' own processors for the settings of a sampled choice, in its order."""
    known = (
        ("temperature", 1.0, TemperatureLogitsWarper),
        ("top_k", 0, TopKLogitsWarper),
        ("top_p", 1.0, TopPLogitsWarper),
        ("min_p", None, MinPLogitsWarper),
        ("typical_p", 1.0, TypicalLogitsWarper),
    )
    return [
        make(sampled[key]) for key, neutral, make in known if sampled.get(key, neutral) not in (neutral, None)
    ]


def try_scores(scores: dict[str, Any]) -> None:
    """Make the processors that transformers' `generate` makes for these settings; raises what they raise."""
    known: dict[str, Callable[[Any], object]] = {
        "repetition_penalty": RepetitionPenaltyLogitsProcessor,
        "no_repeat_ngram_size": NoRepeatNGramLogitsProcessor,
        "min_new_tokens": lambda length: MinNewTokensLengthLogitsProcessor(0, length, 0),
        "min_length": lambda length: MinLengthLogitsProcessor(length, 0),
        "bad_words_ids": lambda ids: NoBadWordsLogitsProcessor(ids, 0),
        "suppress_tokens": SuppressTokensLogitsProcessor,
    }
    for key, value in scores.items():
        known[key](value)


def uniform(seed: int, key: str, step: int) -> float:
    """Return a number in [0, 1) that follows from the seed, the request's key and the token's number."""
    digest = hashlib.sha256(json.dumps([seed, key, step]).encode()).digest()
    return int.from_bytes(digest[:7], "big") / (1 << 56)


class Finite(LogitsProcessor):
    """Ends a row whose scores are nan or infinite, and records at which step that was.

    Args:
        count: B.
        end: the token that ends the row.
        may_exclude: other processors may have set scores to -inf.

    Attributes:
        first_fault_B: the step of each row's first fault; a number that no step reaches without one.
    """

    def __init__(self, count: int, end: int, *, may_exclude: bool) -> None:
        self.first_fault_B = torch.full((count,), _NEVER)
        self._end, self._may_exclude, self._step = end, may_exclude, 0

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """See LogitsProcessor; needs no synchronisation with the device."""
        self.first_fault_B = self.first_fault_B.to(scores.device)
        if self._may_exclude:
            is_fine_B = ~(scores.isnan() | scores.isposinf()).any(-1) & scores.isfinite().any(-1)
        else:
            is_fine_B = scores.isfinite().all(-1)
        now = torch.where(is_fine_B, _NEVER, self._step)
        self.first_fault_B = torch.minimum(self.first_fault_B, now)
        self._step += 1
        ended_BV = torch.full_like(scores, -torch.inf)
        ended_BV[:, self._end] = 0
        return torch.where(is_fine_B[:, None], scores, ended_BV)


class Draw(LogitsProcessor):
    """Draws each row's token with a number of its own, whatever else is in the batch.

    The number picks a place on the cumulated probabilities, in the order of the vocabulary. So equal seeds
    and keys give equal tokens, up to the rounding of logits, which differs between batches.
    """

    def __init__(self, seed: int, keys: Sequence[str]) -> None:
        self._seed, self._keys, self._step = seed, keys, 0

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Return scores of which all but the drawn token's are -inf."""
        numbers = [uniform(self._seed, key, self._step) for key in self._keys]
        self._step += 1
        cumulated_BV = scores.double().softmax(-1).cumsum(-1)
        places_B1 = torch.tensor(numbers, dtype=torch.float64, device=scores.device)[:, None]
        passed_BV = cumulated_BV <= places_B1 * cumulated_BV[:, -1:]
        drawn_B1 = passed_BV.sum(-1, keepdim=True).clamp(max=scores.shape[-1] - 1)
        return torch.full_like(scores, -torch.inf).scatter(-1, drawn_B1, 0.0)
