"""Computes what an output's fingerprint covers: everything that can change a prediction or where a unit ends.

`output/manifest.py` hashes it and keeps it in run.json. A rerun must have the same fingerprint as the output;
if not, the error names the fields that differ.

To add a field: declare it `counted(...)` in its configuration class, or `free(...)` if it cannot change a
prediction (support/fields.py), and put its key into the YAML. Tests fail if a field is neither or has no key.

To add a section, that is a new configuration class: make it a field of `RunConfig`, build it in
`jobs/common/configs.py` (`make_config`, and its key in `_GROUPS`), put its keys into `conf/run.yaml`, add a
line to `shared_fields` below, and name its class in `OF_KEY` of tests/test_laws.py.

Whatever is added here changes the fingerprint of every output: existing ones can be read, not continued.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.models.checkpoints.digest import weights_digest
from pipeline.stages.arms import Arm
from pipeline.support.fields import fingerprint_fields

if TYPE_CHECKING:
    from pipeline.run.config import RunConfig

Json = dict[str, Any]  # nested: section, field, and a value of any type that JSON has


def counted_fields(config: "RunConfig", weights: Json) -> list[Json]:
    """Collect what the fingerprint of each arm covers, in the order of `config.arms`.

    `weights` are `weights_fields`.
    """
    shared = shared_fields(config, weights)
    return [{**shared, **arm_fields(config, arm)} for arm in config.arms]


def weights_fields(llava: Path, clip: Path | None, *, is_tuned: bool, **text: int | None) -> Json:
    """Collect what counts of a model's checkpoints: digests, and whose vision tower runs.

    `is_tuned` says that the LLaVA's tower is not the CLIP's. Outputs made with the CLIP's tower lack the
    field `tower`: they are continued only where the two are equal. `text`: what of a language model was not
    answered as transformers does before, such as sliding windows, which padding behind a cached head filled.
    """
    fields: Json = {"weights": weights_digest(llava)}
    if clip is not None:
        fields["clip_weights"] = weights_digest(clip)
    fields |= {"tower": "llava"} if is_tuned else {}
    return fields | {name: value for name, value in text.items() if value}


def shared_fields(config: "RunConfig", weights: Json) -> Json:
    """Collect what counts for every arm."""
    rules = {"rules": config.source.rules} if config.source.rules > 1 else {}
    # before, what was sampled for a request depended on its batch
    draws = {"draws": "by key"} if config.decoding.temperature or config.decoding.from_checkpoint else {}
    return {
        "source": {"kind": type(config.source).__name__, **rules, **fingerprint_fields(config.source)},
        "task": fingerprint_fields(config.task),
        "model": {**fingerprint_fields(config.model), **weights},
        "engine": {"kind": type(config.engine).__name__, **config.engine.counted()},
        "decoding": {**draws, **fingerprint_fields(config.decoding)},
        "image": fingerprint_fields(config.imaging),
        **fingerprint_fields(config.limits),
        **fingerprint_fields(config.options),
    }


def arm_fields(config: "RunConfig", arm: Arm) -> Json:
    """Collect what counts for one arm: its reducer, and the arm that its `budget_of` names.

    `clip_text`, the arm's own or else the run's, counts only for a reducer that reads texts.
    """
    fields: Json = {
        "reducer": arm.settings,
        "clip_text": (arm.clip_text or config.clip_text).counted() if arm.reads_text else {},
    }
    if arm.budget_of is not None:
        (source,) = (other for other in config.arms if other.name == arm.budget_of)
        fields["budget_of"] = arm_fields(config, source)
    return fields
