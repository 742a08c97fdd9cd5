"""What the generate stage asks of an engine, and what it gets back.

Legend: K visual tokens kept, D vision width.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from pipeline.config import Decoding, Model

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Request:
    """One prompt, in which `<image>` stands exactly once, and the visual tokens to put there."""

    prompt: str
    tokens_KD: "Tensor"


@dataclass(frozen=True)
class Answer:
    """What became of a request: an answer, or (text None) the reason why there is none.

    `generated_tokens` and `token_ids` are what was generated up to the end: with the tokens of a stop string,
    without EOS. Seconds are this request's share of its batch; `generate_s` includes `prefill_s`.
    """

    text: str | None
    finish_reason: str | None  # "stop": EOS or a stop string; "length": max_new_tokens reached
    prompt_tokens: int  # text only, BOS included
    generated_tokens: int = 0
    prefill_s: float = 0.0
    generate_s: float = 0.0
    error: str | None = None  # one line
    token_ids: tuple[int, ...] = ()


class Engine(Protocol):
    """Turns requests into answers."""

    def generate(self, requests: Sequence[Request]) -> list[Answer]:
        """One answer for each request, in the same order."""
        ...


class EngineConfig(Protocol):
    """An engine's frozen configuration: `_target_` of its YAML.

    It may also have `units_at_once`, the number of threads that call `generate` with a unit each (else one);
    `check(decoding)`, which raises ConfigError where the engine cannot run; and `other_batches()`, the
    configuration of the control arm.
    """

    def load(self, model: Model, decoding: Decoding, *, device: str, seed: int) -> Engine:
        """The engine with the model's weights on `device`, in the process that calls it."""
        ...
