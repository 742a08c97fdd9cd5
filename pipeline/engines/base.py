"""Declares the interface of an engine: its configuration, its requests and its answers.

Legend: K visual tokens kept, D vision width.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol, Self

from pipeline.models.checkpoints.generation import Choice
from pipeline.models.config import Decoding, Model
from pipeline.support.errors import ConfigError
from pipeline.support.fields import fingerprint_fields

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Request:
    """Holds a prompt with exactly one `<image>`, and the visual tokens to put in its place.

    What is sampled for it depends on the run's seed and its `key`. Requests of one `kind` have answers of
    like length.
    """

    prompt: str
    tokens_KD: "Tensor"
    key: str = ""
    kind: str = ""


@dataclass(frozen=True)
class Answer:
    """Holds the answer to a request; without one, `text` is None, `status` is not ok and `error` says why.

    `generated_tokens` and `token_ids` include the tokens of a stop string, but not EOS. Seconds are this
    request's share of its batch; `generate_s` includes `prefill_s`.
    """

    text: str | None
    finish_reason: str | None  # "stop": EOS or a stop string; "length": max_new_tokens reached
    prompt_tokens: int  # text only, BOS included
    generated_tokens: int = 0
    prefill_s: float = 0.0
    generate_s: float = 0.0
    error: str | None = None  # one line
    status: Literal["ok", "bad_question", "failed"] = "ok"
    token_ids: tuple[int, ...] = ()


class Engine(Protocol):
    """Answers requests with a language model."""

    def generate(self, requests: Sequence[Request]) -> list[Answer]:
        """Return one answer for each request, in the same order."""
        ...


@dataclass(frozen=True)
class Setting:
    """Holds where a run computes, as far as an engine's defaults depend on it.

    Args:
        on_gpu: the engine computes on GPUs; None: on what a cluster that is yet to be joined has.
        shares_images: several questions about one image may be answered from the same visual tokens.
        earlier: what an existing output's fingerprint counts of its engine, `kind` included.
    """

    on_gpu: bool | None
    shares_images: bool = True
    earlier: Mapping[str, Any] = field(default_factory=dict)  # values of any type

    def is_on_gpu(self, engine: str) -> bool:
        """Return `on_gpu`; raises ConfigError if it is not known. `engine` is the one that must know it."""
        if self.on_gpu is None:
            raise ConfigError(
                f"engine={engine}: say device=cuda or device=cpu, for a cluster that is yet to be joined"
            )
        return self.on_gpu


@dataclass(frozen=True)
class EngineConfig(ABC):
    """Configures an engine; base class of the frozen dataclasses that YAMLs name as `_target_`.

    A field may take the place of a property.
    """

    @property
    def gpus(self) -> int:
        """The number of GPUs that one engine computes on, where it computes on GPUs."""
        return 1

    @property
    def units_at_once(self) -> int:
        """The number of threads that call `Engine.generate` at the same time, each with its own unit."""
        return 1

    @property
    def kv_cache_gib(self) -> float | None:
        """Memory that the engine reserves for keys and values; None: each batch takes its own."""
        return None

    @property
    def takes_free_memory(self) -> bool:
        """Tell whether the engine takes all memory that is free on its GPU, so that no second one fits."""
        return False

    @abstractmethod
    def load(self, model: Model, decoding: Decoding, *, device: str, seed: int) -> Engine:
        """Load the model's weights on `device`, in the process that calls this."""

    def check(self, decoding: Decoding) -> None:  # noqa: B027 - optional: most engines run everywhere
        """Raise ConfigError if the engine cannot run on this machine, or not with these decoding settings."""

    def counted(self) -> dict[str, object]:
        """Collect what the fingerprint covers of the configuration."""
        return fingerprint_fields(self)

    @property
    def settles(self) -> bool:
        """Tell whether `settled` has anything to decide."""
        return False

    def settled(self, setting: Setting) -> "EngineConfig":
        """Return the configuration with everything decided that it leaves to where the run computes.

        Raises:
            ConfigError: something depends on the device, and neither the output nor the setting says it.
        """
        return self

    def check_choice(self, choice: Choice) -> None:  # noqa: B027 - optional
        """Raise ConfigError if the engine cannot choose tokens so."""

    def check_positions(self, most: int, rope_switch: int | None) -> None:  # noqa: B027 - optional
        """Raise ConfigError if the engine would turn positions otherwise than transformers.

        Args:
            most: the positions of the language model.
            rope_switch: see `LanguageModel`.
        """

    def other_batches(self) -> Self:
        """Return the same configuration with other batch sizes, for the control arm of a comparison.

        Raises:
            ConfigError: the engine's batch sizes cannot be configured.
        """
        raise ConfigError(f"engine {type(self).__name__} makes its batches by itself")
