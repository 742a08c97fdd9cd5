"""Scores answers about scenes against the truth."""

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
    """Counts attributes: claimed and true, claimed, true."""

    hits: int = 0
    claimed: int = 0
    true: int = 0

    def __add__(self, other: "F1") -> "F1":
        return F1(self.hits + other.hits, self.claimed + other.claimed, self.true + other.true)

    @property
    def value(self) -> float:
        return 2 * self.hits / max(1, self.claimed + self.true)


def is_right(prediction: str | None, answers: Sequence[str]) -> bool:
    """Tell whether an answer equals a right one, apart from case, spaces and a final full stop."""
    return prediction is not None and _normalized(prediction) in {_normalized(answer) for answer in answers}


def caption_f1(prediction: str | None, caption: str) -> F1:
    """Count attributes of things: each thing's shape with its colour, its size and its texture."""
    claimed, true = Counter(_attributes(prediction or "")), Counter(_attributes(caption))
    return F1((claimed & true).total(), claimed.total(), true.total())


def _attributes(caption: str) -> Iterable[tuple[str, str]]:
    for size, texture, color, shape in _THING.findall(caption.lower()):
        yield from ((color, shape), (size, shape), (texture or TEXTURES[0], shape))


def _normalized(text: str) -> str:
    return " ".join(text.lower().split()).rstrip(".").rstrip()
