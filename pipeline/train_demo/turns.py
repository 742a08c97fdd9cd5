"""Turns conversations into token ids: the text before the picture, then questions with answers."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from pipeline.demo.ask import SceneQuestion
from pipeline.models.config import fill_template

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Turn:
    """Holds the tokens after the picture; the last `answer_length` are the answer with its end token."""

    kind: str
    question: str
    token_ids: tuple[int, ...]
    answer_length: int


class Conversation:
    """Tokenises turns by a template in the form of `Model.template`."""

    def __init__(self, tokenizer: "PreTrainedTokenizerBase", template: str) -> None:
        self._tokenizer, self._template = tokenizer, template
        self._image = tokenizer.convert_tokens_to_ids("<image>")
        token_ids = tokenizer(template)["input_ids"]
        self.prefix: tuple[int, ...] = tuple(token_ids[: token_ids.index(self._image)])
        self._turn = lru_cache(maxsize=100_000)(self._make)

    def turn(self, question: SceneQuestion, suffix: str = "") -> Turn:
        """Tokenise a question with the first of its answers."""
        return self._turn(question.kind, question.question + suffix, question.answers[0])

    def _make(self, kind: str, question: str, answer: str) -> Turn:
        prompt = fill_template(self._template, question)
        prompt_ids = self._tokenizer(prompt)["input_ids"]
        whole = self._tokenizer(f"{prompt} {answer}")["input_ids"]
        assert whole[: len(prompt_ids)] == prompt_ids, "the answer changes the tokens of its prompt"
        whole = [*whole, self._tokenizer.eos_token_id]
        after = whole[whole.index(self._image) + 1 :]
        return Turn(kind, question, tuple(after), len(whole) - len(prompt_ids))


def longest(turns: Sequence[Turn]) -> int:
    """Count the tokens of the longest turn."""
    return max(len(turn.token_ids) for turn in turns)
