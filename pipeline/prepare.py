"""What is settled before Ray starts: fingerprints, the plan, and what each arm's output lacks."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from pipeline.arms import Arm, reduction_order
from pipeline.config import fingerprint_fields
from pipeline.errors import ConfigError
from pipeline.manifest import Manifest, agree, make_manifest
from pipeline.models.checkpoint import Geometry
from pipeline.plan import Plan, extend_plan, load_plan, make_plan, require_unchanged, share_plan
from pipeline.stages.read import Pending
from pipeline.storage import Storage, canonical, list_names, write_atomic
from pipeline.units import MAX_UNIT_BYTES, Finished

if TYPE_CHECKING:
    from pipeline.run import RunConfig


@dataclass(frozen=True)
class ArmState:
    """One arm's output: where it lies, what made it, and what it holds."""

    arm: Arm
    folder: str  # URI
    manifest: Manifest
    finished: Finished


@dataclass(frozen=True)
class Prepared:
    """A run before it starts, or after its end. The arms' outputs have equal plans."""

    plan: Plan
    geometry: Geometry
    states: tuple[ArmState, ...]

    @cached_property
    def pending(self) -> list[int]:
        """The shards of which some arm lacks units."""
        return [shard for shard in range(len(self.plan)) if not self.has_shard(shard)]

    def has_shard(self, shard: int) -> bool:
        """Whether every arm has all units of a shard."""
        return all(state.finished.has_shard(shard) for state in self.states)

    def missing(self, shard: int) -> Pending:
        """What `read` has to know of a pending shard."""
        ranges = [state.finished.ranges(shard) for state in self.states]
        everywhere = {
            first: stop for first, stop in ranges[0].items() if all(first in other for other in ranges)
        }
        somewhere = {first for some in ranges for first in some if first not in everywhere}
        lacking = {
            first: [number for number, some in enumerate(ranges) if first not in some] for first in somewhere
        }
        return shard, everywhere, lacking


def prepare(config: "RunConfig", like: Plan | None = None) -> Prepared:
    """Everything that can be wrong with a configuration, found out without Ray.

    Args:
        like: the plan of another run whose requests are to be answered here, too.

    Raises:
        ConfigError: the configuration, the source or an output's state is wrong.
    """
    output = canonical(config.options.output, config.storage)
    _require_device(config)
    reduction_order(config.arms)
    geometry, counted = _fingerprint(config)
    _require_unit_fits(config, geometry)
    folders = [f"{output}/{arm.folder}".rstrip("/") for arm in config.arms]
    manifests = [
        make_manifest(
            folder, {**counted, **_arm_fields(config, arm)}, {**config.settings, "reducer": arm.settings}
        )
        for folder, arm in zip(folders, config.arms, strict=True)
    ]
    frozen = _frozen(config, folders, manifests)
    plan = like or _current_plan(config, folders[0], next(filter(None, frozen), None))
    for folder, manifest in zip(folders, manifests, strict=True):
        share_plan(plan, folder, config.storage)
        agree(folder, manifest, config.storage)
    states = [
        ArmState(arm, folder, manifest, _finished(folder, config.storage))
        for arm, folder, manifest in zip(config.arms, folders, manifests, strict=True)
    ]
    prepared = Prepared(plan, geometry, tuple(states))
    if prepared.pending and any(frozen):
        require_unchanged(plan, prepared.has_shard, config.source, config.storage)
    return prepared


def look_again(prepared: Prepared, storage: Storage) -> Prepared:
    """The outputs as they are now."""
    states = [replace(state, finished=_finished(state.folder, storage)) for state in prepared.states]
    return replace(prepared, states=tuple(states))


def _finished(output: str, storage: Storage) -> Finished:
    fs, folder = storage.open(output)
    return Finished(list_names(fs, f"{folder}/data"))


def _frozen(config: "RunConfig", folders: Sequence[str], manifests: Sequence[Manifest]) -> list[Plan | None]:
    """The plans of the outputs that were started before: by the same configuration, or that is an error."""
    plans = []
    for folder, manifest in zip(folders, manifests, strict=True):
        with config.storage.reaching("output", folder):
            plans.append(load_plan(folder, config.storage))
        if plans[-1] is not None:
            _require_writable(config, folder)
            agree(folder, manifest, config.storage)
    return plans


def _current_plan(config: "RunConfig", output: str, plan: Plan | None) -> Plan:
    if plan is None:
        return make_plan(output, config.source, config.options.limit, config.storage)
    if config.options.extend:
        return extend_plan(plan, config.source, config.storage)
    source = canonical(config.source.path, config.storage)
    if source != plan.source:
        hide = config.storage.redact
        raise ConfigError(
            f"output {hide(output)} belongs to the source {hide(plan.source)}, not {hide(source)}; "
            "choose another output, or append with extend=true"
        )
    return plan


def _fingerprint(config: "RunConfig") -> tuple[Geometry, dict[str, Any]]:
    """What counts for every arm."""
    from pipeline.models.checkpoint import check_fit, resolve, weights_digest

    llava, clip = (
        resolve(path, config.model.allow_pickle) for path in (config.model.path, config.model.clip)
    )
    geometry = check_fit(llava, clip)
    parts = {
        "source": {"kind": type(config.source).__name__, **fingerprint_fields(config.source)},
        "task": fingerprint_fields(config.task),
        "model": {
            **fingerprint_fields(config.model),
            "weights": weights_digest(llava),
            "clip_weights": weights_digest(clip),
        },
        "engine": {"kind": type(config.engine).__name__, **fingerprint_fields(config.engine)},
        "decoding": fingerprint_fields(config.decoding),
        "image": fingerprint_fields(config.imaging),
        **fingerprint_fields(config.limits),
        **fingerprint_fields(config.options),
    }
    return geometry, parts


def _arm_fields(config: "RunConfig", arm: Arm) -> dict[str, Any]:
    """What counts for one arm: its reducer, and the one whose tokens it counts."""
    fields: dict[str, Any] = {
        "reducer": arm.settings,
        "clip_text": fingerprint_fields(config.clip_text) if "text" in arm.reducer.needs else {},
    }
    if arm.budget_of is not None:
        (source,) = (other for other in config.arms if other.name == arm.budget_of)
        fields["budget_of"] = _arm_fields(config, source)
    return fields


def _require_unit_fits(config: "RunConfig", geometry: Geometry) -> None:
    """Refuse limits under which a unit could outgrow what one Arrow row may hold."""
    limits = config.limits
    pixels = limits.unit_samples * geometry.image_size**2 * 3
    requests = limits.unit_requests + limits.max_questions - 1
    element = 4 if config.model.encode_dtype == "float32" else 2
    image = geometry.num_patches * geometry.vision_width * element
    tokens = sum((requests if arm.reads_request else limits.unit_samples) * image for arm in config.arms)
    for what, size in (("decoded images", pixels), ("visual tokens", tokens)):
        if size > MAX_UNIT_BYTES:
            raise ConfigError(
                f"unit_samples, unit_requests, max_questions: a unit's {what} could take {size:,} bytes, "
                f"more than {MAX_UNIT_BYTES:,}; lower them"
            )


def _require_device(config: "RunConfig") -> None:
    import torch

    if (
        config.options.device == "cuda"
        and config.cluster.address == "local"
        and not torch.cuda.is_available()
    ):
        raise ConfigError("device=cuda: torch sees no GPU on this machine")


def _require_writable(config: "RunConfig", output: str) -> None:
    with config.storage.reaching("output", output):
        fs, folder = config.storage.open(output)
        probe = f"{folder}/.probe"
        write_atomic(fs, probe, b"")
        fs.rm_file(probe)
