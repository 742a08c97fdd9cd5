"""What is settled before Ray starts: fingerprints, the plan, and what each arm's output lacks."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from pipeline.models.checkpoints.fit import Geometry
from pipeline.models.checkpoints.kinds import KINDS
from pipeline.output.manifest import Manifest, make_manifest, require_same_run
from pipeline.output.plan import Plan, extend_plan, load_plan, make_plan, require_unchanged, share_plan
from pipeline.output.units import MAX_UNIT_BYTES, Finished, finished_units
from pipeline.run.retry import make_room
from pipeline.stages.arms import Arm, reduction_order, require_fields
from pipeline.stages.read import PendingShard
from pipeline.storage.uris import Storage, canonical, write_atomic
from pipeline.support.errors import ConfigError
from pipeline.support.fields import fingerprint_fields

if TYPE_CHECKING:
    from pipeline.run.config import RunConfig


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

    @property
    def run_id(self) -> str:
        """The arms' ids, with commas between."""
        return ",".join(state.manifest.run_id for state in self.states)

    def has_shard(self, shard: int) -> bool:
        """Whether every arm has all units of a shard."""
        return all(state.finished.has_shard(shard) for state in self.states)

    def missing(self, shard: int) -> PendingShard:
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


@dataclass(frozen=True)
class _Checked:
    """A configuration that agrees with what its outputs hold; `started`: whether they hold anything."""

    geometry: Geometry
    folders: list[str]
    manifests: list[Manifest]
    started: bool


def prepare(config: "RunConfig") -> Prepared:
    """Everything that can be wrong with a configuration, found out without Ray.

    Raises:
        ConfigError: the configuration, the source or an output's state is wrong.
    """
    (prepared,) = prepare_all([config])
    return prepared


def prepare_all(groups: Sequence["RunConfig"]) -> list[Prepared]:
    """Like `prepare`, for runs that answer the same requests: under one plan, and retried together."""
    checked = [_check(group) for group in groups]
    first = groups[0]
    if first.options.retry_failed:
        folders = [folder for one in checked for folder in one.folders]
        with first.storage.reaching("output", first.options.output):
            make_room(folders, first.source, first.options.retry_statuses, first.options.limit, first.storage)
    prepared: list[Prepared] = []
    for group, one in zip(groups, checked, strict=True):
        prepared.append(_settle(group, one, prepared[0].plan if prepared else None))
    return prepared


def _check(config: "RunConfig") -> _Checked:
    output = canonical(config.options.output, config.storage)
    _require_device(config)
    _require_engine(config)
    _require_metrics(config)
    reduction_order(config.arms)
    geometry, counted = _fingerprint(config)
    require_fields(config.arms, KINDS[geometry.kind])
    _require_unit_fits(config, geometry)
    folders = [f"{output}/{arm.folder}".rstrip("/") for arm in config.arms]
    manifests = [
        make_manifest(
            folder, {**counted, **_arm_fields(config, arm)}, {**config.settings, "reducer": arm.settings}
        )
        for folder, arm in zip(folders, config.arms, strict=True)
    ]
    started = [_require_own(config, *both) for both in zip(folders, manifests, strict=True)]
    return _Checked(geometry, folders, manifests, any(started))


def _settle(config: "RunConfig", checked: _Checked, like: Plan | None) -> Prepared:
    """The plan, and what the outputs lack of it; `like`: the plan of another run of the same requests."""
    folders, storage = checked.folders, config.storage
    plan = like or _current_plan(config, folders)
    for folder, manifest in zip(folders, checked.manifests, strict=True):
        share_plan(plan, folder, storage)
        require_same_run(folder, manifest, storage)
    states = [
        ArmState(arm, folder, manifest, finished_units(folder, storage))
        for arm, folder, manifest in zip(config.arms, folders, checked.manifests, strict=True)
    ]
    prepared = Prepared(plan, checked.geometry, tuple(states))
    if prepared.pending:
        _require_memory(config, checked.geometry)
    if prepared.pending and checked.started:
        require_unchanged(plan, prepared.has_shard, config.source, storage)
    return prepared


def look_again(prepared: Prepared, storage: Storage) -> Prepared:
    """The outputs as they are now."""
    states = [replace(state, finished=finished_units(state.folder, storage)) for state in prepared.states]
    return replace(prepared, states=tuple(states))


def _require_own(config: "RunConfig", folder: str, manifest: Manifest) -> bool:
    """Whether an output was started before: by this configuration and on this source, or that is an error."""
    hide = config.storage.redact
    with config.storage.reaching("output", folder):
        plan = load_plan(folder, config.storage)
    if plan is None:
        return False
    _require_writable(config, folder)
    require_same_run(folder, manifest, config.storage)
    source = canonical(config.source.path, config.storage)
    if source != plan.source and not config.options.extend:
        raise ConfigError(
            f"output {hide(folder)} belongs to the source {hide(plan.source)}, not {hide(source)}; "
            "choose another output, or append with extend=true"
        )
    return True


def _current_plan(config: "RunConfig", folders: Sequence[str]) -> Plan:
    plan = next(filter(None, (load_plan(folder, config.storage) for folder in folders)), None)
    if plan is None:
        return make_plan(folders[0], config.source, config.options.limit, config.storage)
    return extend_plan(plan, config.source, config.storage) if config.options.extend else plan


def _fingerprint(config: "RunConfig") -> tuple[Geometry, dict[str, Any]]:
    """What counts for every arm."""
    from pipeline.models.checkpoints.fit import check_fit, weights_digest
    from pipeline.models.checkpoints.folders import folders

    llava, clip = folders(config.model)
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


def _require_memory(config: "RunConfig", geometry: Geometry) -> None:
    """Refuse a model that this machine cannot hold. On a GPU or other machines its actor looks for itself."""
    from pipeline.models.devices import torch_device

    here = config.cluster.address == "local" and torch_device(config.options.device).type == "cpu"
    if not here or not config.model.check_memory:
        return
    from pipeline.models.checkpoints.folders import folders
    from pipeline.models.footprint import of_run, require_room, room_of

    needs = frozenset().union(*(arm.reducer.needs for arm in config.arms))
    longest = geometry.num_patches + config.decoding.max_new_tokens
    parts = of_run(
        *folders(config.model),
        needs=needs,
        dtype=config.model.generate_dtype,
        tokens=longest,
        cache_gib=config.engine.kv_cache_gib,
        actors={name: getattr(config.cluster, name).num_actors or 1 for name in ("encode", "generate")},
    )
    require_room(config.model, parts, *room_of("cpu"))


def _require_device(config: "RunConfig") -> None:
    import torch

    if (
        config.options.device == "cuda"
        and config.cluster.address == "local"
        and not torch.cuda.is_available()
    ):
        raise ConfigError("device=cuda: torch sees no GPU on this machine")


def _require_metrics(config: "RunConfig") -> None:
    """Ray serves metrics with what its extra `default` installs, and without a word not without it."""
    wanted = config.options.metrics_port is not None and config.cluster.address == "local"
    if wanted and not (find_spec("opencensus") and find_spec("prometheus_client")):
        raise ConfigError("metrics_port: Ray's metrics need its extra: pip install 'trimline[cluster]'")


def _require_engine(config: "RunConfig") -> None:
    """What runs elsewhere need not be installed here."""
    if config.cluster.address == "local":
        config.engine.check(config.decoding)


def _require_writable(config: "RunConfig", output: str) -> None:
    with config.storage.reaching("output", output):
        fs, folder = config.storage.open(output)
        probe = f"{folder}/.probe"
        write_atomic(fs, probe, b"")
        fs.rm_file(probe)
