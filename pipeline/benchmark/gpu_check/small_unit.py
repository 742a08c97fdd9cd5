"""Makes a small checkpoint and one decoded unit for the parts of the check."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipeline.benchmark.one_unit import decoded_unit
from pipeline.benchmark.options import GpuCheckOptions
from pipeline.engines.base import EngineConfig
from pipeline.engines.transformers import Transformers
from pipeline.models.checkpoints.fit import Geometry
from pipeline.models.config import Decoding, Model
from pipeline.run.config import RunConfig
from pipeline.stages.arms import Arm
from pipeline.stages.encode import Encode
from pipeline.stages.generate import Generate
from pipeline.stages.rows import unpack_unit
from pipeline.support.cache import cached

_HEADS = 3  # of 32: vLLM has no kernel for smaller ones
_VERSION = 1
Rows = dict[tuple[int, str], Mapping[str, Any]]  # REQUESTS by arm and key


def small_model(config: RunConfig, *, batch: int = 16) -> Model:
    """Return a model of random weights in float32 whose answers depend on image and question.

    No greedy choice of it is a tie that rounding decides.

    Args:
        batch: images in one pass of CLIP.
    """
    from pipeline.models.demo.random_weights import make_random

    folder = cached(f"gpu-check-v{_VERSION}", lambda target: make_random(target, heads=_HEADS))
    return Model(
        name="random",
        path=str(folder / "llava"),
        clip=str(folder / "clip"),
        template=config.model.template,
        encode_batch_size=batch,
    )


@dataclasses.dataclass(frozen=True)
class Work:
    """Holds one decoded unit, and how its stages are to be made."""

    config: RunConfig
    geometry: Geometry
    unit: pa.Table

    def encode(self, device: str, *arms: Arm) -> Encode:
        """Load the stage that encodes the unit, for all arms or those given."""
        return Encode(
            geometry=self.geometry,
            model=self.config.model,
            arms=arms or self.config.arms,
            clip_text=self.config.clip_text,
            suffix=self.config.task.suffix,
            device=device,
            threads=None,
        )

    def generate(self, device: str, engine: EngineConfig | None = None) -> Generate:
        """Load the stage that answers the unit's requests; by the transformers engine, or the one given."""
        return Generate(
            engine=engine or Transformers(),
            decoding=self.config.decoding,
            seed=0,
            geometry=self.geometry,
            model=self.config.model,
            arms=self.config.arms,
            device=device,
            threads=None,
        )


def make_work(
    config: RunConfig, options: GpuCheckOptions, folder: Path, *, images: int, questions: int, batch: int = 16
) -> Work:
    """Make a unit of `images` pictures with `questions` each, for the small model."""
    decoding = Decoding(max_new_tokens=options.check_tokens)
    run_options = dataclasses.replace(config.options, device="cpu")
    config = dataclasses.replace(
        config, model=small_model(config, batch=batch), decoding=decoding, options=run_options
    )
    return Work(config, *decoded_unit(config, folder, images, questions))


def rows_of(unit: pa.Table) -> Rows:
    """Return a unit's requests by arm and key."""
    requests = unpack_unit(unit).tables["requests"].to_pylist()
    return {(request["arm"], request["key"]): request for request in requests}
