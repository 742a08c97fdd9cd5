"""Configures the transformers engine; only `load` imports torch."""

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from pipeline.engines.base import EngineConfig, Setting
from pipeline.models.checkpoints.generation import Choice
from pipeline.models.config import Decoding, Model
from pipeline.support.errors import ConfigError, first_line
from pipeline.support.fields import counted, require

if TYPE_CHECKING:
    from pipeline.engines.transformers_engine import TransformersEngine
    from pipeline.models.llava import LanguageModel


@dataclass(frozen=True, kw_only=True)
class Transformers(EngineConfig):
    """Configures batches of at most `max_batch` requests and `token_budget` input tokens, padding included.

    `prefix_cache` computes the prompts' common beginning once. All fields count for the fingerprint, because
    another batch rounds differently.

    Args:
        group_by_kind: captions and short answers are in different batches; null: as in the output so far,
            where earlier releases did not, and true in a new one.
    """

    token_budget: int = counted(16384)
    max_batch: int = counted(64)
    prefix_cache: bool = counted(True)
    group_by_kind: bool | None = counted(None)

    def __post_init__(self) -> None:
        require(self.token_budget >= 1, "engine.token_budget must be at least 1")
        require(self.max_batch >= 1, "engine.max_batch must be at least 1")

    def counted(self) -> dict[str, object]:
        """See `EngineConfig.counted`; what outputs of earlier releases do not name is left out."""
        fields = super().counted()
        grouped = fields.pop("group_by_kind") is not False
        return fields | ({"group_by_kind": True} if grouped else {})

    @property
    def settles(self) -> bool:
        """See `EngineConfig.settles`."""
        return self.group_by_kind is None

    def settled(self, setting: Setting) -> Self:
        """See `EngineConfig.settled`."""
        if self.group_by_kind is not None:
            return self
        is_begun = setting.earlier.get("kind") == type(self).__name__
        grouped = bool(setting.earlier.get("group_by_kind")) if is_begun else True
        return dataclasses.replace(self, group_by_kind=grouped)

    def other_batches(self) -> Self:
        """Return this configuration with half the batch sizes, which changes answers by rounding alone."""
        return dataclasses.replace(
            self, token_budget=max(1, self.token_budget // 2), max_batch=max(1, self.max_batch // 2)
        )

    def check_choice(self, choice: Choice) -> None:
        """See `EngineConfig.check_choice`: values that transformers' own processors refuse."""
        from pipeline.engines.next_token import try_scores, warpers

        try:
            warpers(choice.sampled)
            try_scores(choice.scores)
        except (TypeError, ValueError) as error:
            raise ConfigError(f"decoding.from_checkpoint: {first_line(error)}") from None

    def load(self, model: Model, decoding: Decoding, *, device: str, seed: int) -> "TransformersEngine":
        """Load the model's weights on `device`.

        Raises ConfigError if they cannot be loaded, or batches of this size do not fit beside them.
        """
        import torch

        from pipeline.models.checkpoints.folders import folders
        from pipeline.models.footprint import of_generate, require_room, room_of
        from pipeline.models.llava import LanguageModel

        dtype = getattr(torch, model.generate_dtype)
        folder, clip = folders(model)
        require_room(model, {"generate": of_generate(folder, model.generate_dtype)}, *room_of(device))
        if device.partition(":")[0] == "cuda":
            from pipeline.engines.gpu_memory import require_budget

            require_budget(
                model, decoding, (folder, clip), token_budget=self.token_budget, max_batch=self.max_batch
            )
        language_model = LanguageModel(folder, device=device, dtype=dtype)
        return self.of_model(language_model, decoding, seed=seed)

    def of_model(
        self, language_model: "LanguageModel", decoding: Decoding, *, seed: int
    ) -> "TransformersEngine":
        """Make the engine from a language model that is already loaded."""
        from pipeline.engines.transformers_engine import TransformersEngine

        return TransformersEngine(
            language_model,
            decoding,
            token_budget=self.token_budget,
            max_batch=self.max_batch,
            prefix_cache=self.prefix_cache,
            group_by_kind=self.group_by_kind is not False,
            seed=seed,
        )
