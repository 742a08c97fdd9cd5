"""Conversations as token ids: what stands before the picture, and each question with its answer after it."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from pipeline.demo.ask import Asked
from pipeline.models.config import fill_template


@dataclass(frozen=True)
class Turn:
    """The tokens after the picture; the last `answer_length` are the answer with its end token."""

    kind: str
    question: str
    token_ids: tuple[int, ...]
    answer_length: int


class Conversation:
    """A template in the form of `Model.template`, in the tokens of a language model."""

    def __init__(self, tokenizer: Any, template: str) -> None:
        self._tokenizer, self._template = tokenizer, template
        self._image = tokenizer.convert_tokens_to_ids("<image>")
        token_ids = tokenizer(template)["input_ids"]
        self.prefix: tuple[int, ...] = tuple(token_ids[: token_ids.index(self._image)])
        self._turn = lru_cache(maxsize=100_000)(self._make)

    def turn(self, asked: Asked, suffix: str = "") -> Turn:
        """A question with the first of its answers."""
        return self._turn(asked.kind, asked.question + suffix, asked.answers[0])

    def _make(self, kind: str, question: str, answer: str) -> Turn:
        prompt = fill_template(self._template, question)
        asked = self._tokenizer(prompt)["input_ids"]
        whole = self._tokenizer(f"{prompt} {answer}")["input_ids"]
        assert whole[: len(asked)] == asked, "the answer changes the tokens of its prompt"
        whole = [*whole, self._tokenizer.eos_token_id]
        after = whole[whole.index(self._image) + 1 :]
        return Turn(kind, question, tuple(after), len(whole) - len(asked))


def longest(turns: Sequence[Turn]) -> int:
    return max(len(turn.token_ids) for turn in turns)
