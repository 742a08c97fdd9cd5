"""Answers about scenes against the truth."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pipeline.demo.scene import COLORS, SHAPES, SIZES, TEXTURES

_THING = re.compile(
    rf"\b({'|'.join(SIZES)})(?: ({'|'.join(TEXTURES)}))? ({'|'.join(COLORS)}) ({'|'.join(SHAPES)})\b"
)


@dataclass(frozen=True)
class F1:
    """Counts of attributes that were told and true, told at all, true at all."""

    hits: int = 0
    told: int = 0
    true: int = 0

    def __add__(self, other: "F1") -> "F1":
        return F1(self.hits + other.hits, self.told + other.told, self.true + other.true)

    @property
    def value(self) -> float:
        return 2 * self.hits / max(1, self.told + self.true)


def is_right(prediction: str | None, answers: Sequence[str]) -> bool:
    """Whether the answer equals one of the right ones, but for case, blanks and a full stop at its end."""
    return prediction is not None and _plain(prediction) in {_plain(answer) for answer in answers}


def caption_f1(prediction: str | None, caption: str) -> F1:
    """Attributes of things: each one's shape together with its colour, its size and its texture."""
    told, true = Counter(_attributes(prediction or "")), Counter(_attributes(caption))
    return F1((told & true).total(), told.total(), true.total())


def _attributes(caption: str) -> Iterable[tuple[str, str]]:
    for size, texture, color, shape in _THING.findall(caption.lower()):
        yield from ((color, shape), (size, shape), (texture or TEXTURES[0], shape))


def _plain(text: str) -> str:
    return " ".join(text.lower().split()).rstrip(".").rstrip()
