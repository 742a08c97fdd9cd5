"""The configuration of the transformers engine; torch comes in with `load`."""

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.config import Decoding, Model, counted, require

if TYPE_CHECKING:
    from pipeline.engines.transformers_engine import TransformersEngine


@dataclass(frozen=True, kw_only=True)
class Transformers:
    """Batches of at most `max_batch` requests and `token_budget` input tokens, padding included.

    `prefix_cache` computes once what all prompts begin with. All count for the fingerprint: another batch
    rounds differently, and samples differently.
    """

    token_budget: int = counted(16384)
    max_batch: int = counted(64)
    prefix_cache: bool = counted(True)

    def __post_init__(self) -> None:
        require(self.token_budget >= 1, "engine.token_budget must be at least 1")
        require(self.max_batch >= 1, "engine.max_batch must be at least 1")

    def other_batches(self) -> "Transformers":
        """Batches of half the size: what they change in answers, batching alone changes."""
        return dataclasses.replace(
            self, token_budget=max(1, self.token_budget // 2), max_batch=max(1, self.max_batch // 2)
        )

    def load(self, model: Model, decoding: Decoding, *, device: str, seed: int) -> "TransformersEngine":
        """The engine with the model's weights on `device`. Raises ConfigError if they cannot be loaded."""
        import torch

        from pipeline.engines.transformers_engine import TransformersEngine
        from pipeline.models.folders import folders
        from pipeline.models.footprint import of_generate, require_room, room_of
        from pipeline.models.llava import LanguageModel

        dtype = getattr(torch, model.generate_dtype)
        folder, _ = folders(model)
        require_room(model, {"generate": of_generate(folder, model.generate_dtype)}, *room_of(device))
        language_model = LanguageModel(folder, device=device, dtype=dtype)
        return TransformersEngine(self, language_model, decoding, seed=seed)
