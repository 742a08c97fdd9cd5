"""What the generate stage asks of an engine, and what it gets back.

Legend: K visual tokens kept, D vision width.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, Self

from pipeline.models.config import Decoding, Model
from pipeline.support.errors import ConfigError

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


class EngineConfig(ABC):
    """Configures an engine: the base of the frozen dataclass that an engine's YAML names as `_target_`.

    Attributes:
        units_at_once: threads that call `Engine.generate` at the same time, with a unit each.
        kv_cache_gib: memory for keys and values that the engine takes whatever is asked; None: by the batch.
    """

    units_at_once: int = 1
    kv_cache_gib: float | None = None

    @abstractmethod
    def load(self, model: Model, decoding: Decoding, *, device: str, seed: int) -> Engine:
        """Load the model's weights on `device`, in the process that calls this."""

    def check(self, decoding: Decoding) -> None:  # noqa: B027  an engine that runs everywhere has no check
        """Raise ConfigError if the engine cannot run here, or cannot decode like that."""

    def other_batches(self) -> Self:
        """The configuration of the control arm, which differs in its batches alone.

        Raises:
            ConfigError: the engine makes its batches by itself.
        """
        raise ConfigError(f"engine {type(self).__name__} makes its batches by itself")
