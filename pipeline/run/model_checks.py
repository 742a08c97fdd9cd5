"""Checks a run's model before Ray starts, from its checkpoints' small files and the weights' headers."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.models.checkpoints.fit import Geometry, check_fit, image_token_id
from pipeline.models.checkpoints.folders import folders
from pipeline.models.checkpoints.generation import choice_of, end_tokens, ignored_settings
from pipeline.models.checkpoints.kinds import JOINT_FIELDS, KINDS
from pipeline.models.checkpoints.unknown_keys import unknown_keys_note
from pipeline.models.checkpoints.vision_tower import tower_distance, tower_folder
from pipeline.models.config import fill_template
from pipeline.models.preprocess import preprocessor_of
from pipeline.run.fingerprint import weights_fields
from pipeline.stages.arms import Arm, require_fields
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
    from pipeline.models.checkpoints.loading import load_config
    from pipeline.models.llava import is_alone, rope_switch_of, window_of

    llava, clip = folders(config.model)
    geometry = check_fit(llava, clip)
    kind = KINDS[geometry.kind]
    require_fields(config.arms, kind, has_clip=clip is not None)
    _require_same_pixels(config, llava, geometry)
    _require_all_parts(llava, clip, geometry)
    _require_prompt_fits(config, llava, geometry)
    config.engine.check_choice(choice_of(config.decoding, llava))
    distance = tower_distance(llava, clip, geometry.feature_layer) if clip is not None else 0.0
    llava_config = load_config(llava)
    text_config = llava_config.text_config
    config.engine.check_positions(geometry.max_positions, rope_switch_of(text_config))
    weights = weights_fields(
        llava,
        clip,
        is_tuned=distance > 0 and not kind.may_be_cut,
        window=window_of(text_config),
        rope_switch=rope_switch_of(text_config),
        is_alone=is_alone(text_config),
    )
    _, end_note = end_tokens(llava, text_config.eos_token_id)
    notes = (
        *_tower_notes(config, llava, distance),
        ignored_settings(config.decoding, llava),
        end_note,
        unknown_keys_note(llava, llava_config),
        unknown_keys_note(clip, load_config(clip)) if clip is not None else None,
    )
    return CheckedModel(geometry, weights, tuple(filter(None, notes)))


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


def _require_prompt_fits(config: "RunConfig", llava: Path, geometry: Geometry) -> None:
    """Refuse lengths for which no request of any arm can fit into the model's positions.

    It also loads the tokenizer, so that one that cannot be read is told here.
    """
    from pipeline.models.prompts import load_tokenizer, prompt_ids

    template = fill_template(config.model.template, "")
    image = image_token_id(llava)
    ids = prompt_ids(load_tokenizer(llava), image, template)
    if ids.count(image) != 1:
        raise ConfigError(
            f"{llava}: the tokenizer makes no token {image} of <image> in model.template (does its "
            "tokenizer_config.json set split_special_tokens?)"
        )
    text = len(ids) - 1
    visual = min(_fewest_tokens(arm, geometry) for arm in config.arms)
    needed = text + visual + config.decoding.max_new_tokens
    if needed > geometry.max_positions:
        raise ConfigError(
            f"decoding.max_new_tokens={config.decoding.max_new_tokens}: with the template's {text} tokens "
            f"and at least {visual} of an image no request fits the {geometry.max_positions} positions"
        )


def _fewest_tokens(arm: Arm, geometry: Geometry) -> int:
    """Return the least number of visual tokens that an arm can keep, as far as its fields say."""
    from trim import Full

    if isinstance(arm.reducer, Full):
        return geometry.num_patches
    return int(getattr(arm.reducer, "num_kept", None) or 1) if arm.budget_of is None else 1


def _tower_notes(config: "RunConfig", llava: Path, distance: float) -> tuple[str, ...]:
    reads_joint = any(arm.reducer.needs & JOINT_FIELDS for arm in config.arms)
    if not distance or not reads_joint:
        return ()
    return (
        f"the vision tower in {llava} runs, and is {distance:.2g} away from that of model.clip "
        "(|difference| / |weights|): what reducers compare with texts comes from a tuned tower",
    )
