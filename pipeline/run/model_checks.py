"""Checks a run's model before Ray starts, from its checkpoints' small files and the weights' headers."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.models.checkpoints.fit import Geometry, check_fit
from pipeline.models.checkpoints.folders import folders
from pipeline.models.checkpoints.kinds import JOINT_FIELDS, KINDS
from pipeline.models.checkpoints.supported import require_supported
from pipeline.models.checkpoints.vision_tower import tower_distance, tower_folder
from pipeline.models.preprocess import preprocessor_of
from pipeline.run.fingerprint import weights_fields
from pipeline.stages.arms import require_fields
from pipeline.support.errors import ConfigError

if TYPE_CHECKING:
    from pipeline.run.config import RunConfig


@dataclass(frozen=True)
class CheckedModel:
    """Holds what a run needs to know of its model.

    Args:
        weights: what the fingerprint covers of the checkpoints.
        notes: what a user should know, one line each.
    """

    geometry: Geometry
    weights: dict[str, Any]
    notes: tuple[str, ...]


def check_model(config: "RunConfig") -> CheckedModel:
    """Check that a run's checkpoints are whole, belong together, and can do what the run asks.

    Raises:
        ConfigError: anything of them is wrong, or would be ignored.
    """
    llava, clip = folders(config.model)
    for folder in filter(None, (llava, clip)):
        require_supported(folder)
    geometry = check_fit(llava, clip)
    kind = KINDS[geometry.kind]
    require_fields(config.arms, kind, has_clip=clip is not None)
    _require_same_pixels(config, llava, geometry)
    _require_all_parts(llava, clip, geometry)
    distance = tower_distance(llava, clip, geometry.feature_layer) if clip is not None else 0.0
    weights = weights_fields(llava, clip, is_tuned=distance > 0 and not kind.may_be_cut)
    return CheckedModel(geometry, weights, _tower_notes(config, llava, distance))


def _require_same_pixels(config: "RunConfig", llava: Path, geometry: Geometry) -> None:
    side = preprocessor_of(config.model).image_size
    if side != geometry.image_size:
        raise ConfigError(
            f"{llava}: the image processor makes squares of {side} pixels a side, but the vision tower takes "
            f"{geometry.image_size}"
        )


def _require_all_parts(llava: Path, clip: Path | None, geometry: Geometry) -> None:
    """Hold every tensor of the checkpoints against what transformers makes of their configurations."""
    from pipeline.models.checkpoints.parts import require_whole
    from pipeline.models.encoder import encoder_class
    from pipeline.models.llava import language_parts

    encoder = encoder_class(KINDS[geometry.kind])
    require_whole([*language_parts(llava), *encoder.parts(tower_folder(llava, clip), clip)])


def _tower_notes(config: "RunConfig", llava: Path, distance: float) -> tuple[str, ...]:
    reads_joint = any(arm.reducer.needs & JOINT_FIELDS for arm in config.arms)
    if not distance or not reads_joint:
        return ()
    return (
        f"the vision tower in {llava} runs, and is {distance:.2g} away from that of model.clip "
        "(|difference| / |weights|): what reducers compare with texts comes from a tuned tower",
    )
