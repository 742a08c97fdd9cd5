"""The run: everything between a configuration and a finished output."""

import time
from dataclasses import dataclass, field
from typing import Any

from pipeline.arms import Arm
from pipeline.clip_text import ClipText
from pipeline.cluster import Cluster, start_ray
from pipeline.config import DEVICES, Decoding, Model, counted, fingerprint_fields, free, require
from pipeline.engines.base import EngineConfig
from pipeline.errors import ConfigError, RunError
from pipeline.imaging import Imaging
from pipeline.manifest import Manifest, agree, make_manifest
from pipeline.models.checkpoint import Geometry
from pipeline.plan import Plan, extend_plan, load_plan, make_plan, require_unchanged
from pipeline.progress import Progress
from pipeline.sources.base import Source
from pipeline.storage import Storage, canonical, list_names, write_atomic
from pipeline.summary import summarise
from pipeline.tasks import Task
from pipeline.units import MAX_UNIT_BYTES, Finished, UnitLimits


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """The top-level keys of a run."""

    output: str = free("output")
    limit: int | None = counted(None)
    extend: bool = free(False)
    seed: int = counted(0)
    device: str = free("auto")
    max_failed_fraction: float = free(0.1)

    def __post_init__(self) -> None:
        require(bool(self.output), "output must not be empty")
        require(self.limit is None or self.limit >= 1, "limit must be at least 1")
        require(not (self.extend and self.limit), "extend and limit exclude each other")
        require(self.device in DEVICES, f"device: {self.device!r} is none of {DEVICES}")
        require(0 <= self.max_failed_fraction <= 1, "max_failed_fraction must be in [0, 1]")


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """A whole run. `settings` is the resolved configuration as data, without credentials."""

    options: RunOptions
    limits: UnitLimits
    source: Source
    task: Task
    model: Model
    arms: tuple[Arm, ...]
    engine: EngineConfig
    decoding: Decoding
    imaging: Imaging
    storage: Storage
    cluster: Cluster
    clip_text: ClipText = field(default_factory=ClipText)
    settings: dict[str, Any]


@dataclass(frozen=True)
class Outcome:
    """How a run ended: exit status, summary, and a last line that says what to do next."""

    status: int
    summary: dict[str, Any]
    message: str


@dataclass(frozen=True)
class Prepared:
    """What is settled before Ray starts."""

    output: str
    manifest: Manifest
    plan: Plan
    finished: Finished
    geometry: Geometry

    @property
    def pending(self) -> list[int]:
        return [shard for shard in range(len(self.plan)) if not self.finished.has_shard(shard)]


def annotate(config: RunConfig) -> Outcome:
    """Answer every request of the source that has no answer yet.

    Raises:
        ConfigError: the configuration, the source or the output's state is wrong; before Ray starts.
        RunError: the run could not be finished.
    """
    prepared = prepare(config)
    if not prepared.pending:
        return _conclude(config, prepared, "nothing to do: every shard was finished before")
    fs, folder = config.storage.open(prepared.output)
    _take_back_success(config, prepared)
    _run_units(config, prepared)
    finished = Finished(list_names(fs, f"{folder}/data"))
    done = Prepared(prepared.output, prepared.manifest, prepared.plan, finished, prepared.geometry)
    if done.pending:
        raise RunError(f"{len(done.pending)} shards are not finished, the first is {done.pending[0]}")
    return _conclude(config, done, "done")


def prepare(config: RunConfig) -> Prepared:
    """Everything that can be wrong with a configuration, found out without Ray."""
    output = canonical(config.options.output, config.storage)
    _require_device(config)
    geometry, counted_fields = _fingerprint(config)
    _require_unit_fits(config, geometry)
    manifest = make_manifest(output, counted_fields, config.settings)
    with config.storage.reaching("output", output):
        frozen = load_plan(output, config.storage)
    if frozen is not None:
        _require_writable(config, output)
        agree(output, manifest, config.storage)
    plan = _current_plan(config, output, frozen)
    agree(output, manifest, config.storage)
    fs, folder = config.storage.open(output)
    finished = Finished(list_names(fs, f"{folder}/data"))
    prepared = Prepared(output, manifest, plan, finished, geometry)
    if prepared.pending and frozen is not None:
        require_unchanged(plan, finished, config.source, config.storage)
    return prepared


def _current_plan(config: RunConfig, output: str, plan: Plan | None) -> Plan:
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


def _fingerprint(config: RunConfig) -> tuple[Geometry, dict[str, Any]]:
    from pipeline.models.checkpoint import check_fit, resolve, weights_digest

    llava, clip = resolve(config.model.path), resolve(config.model.clip)
    geometry = check_fit(llava, clip)
    (arm,) = config.arms
    parts = {
        "source": {"kind": type(config.source).__name__, **fingerprint_fields(config.source)},
        "task": fingerprint_fields(config.task),
        "model": {
            **fingerprint_fields(config.model),
            "weights": weights_digest(llava),
            "clip_weights": weights_digest(clip),
        },
        "reducer": arm.settings,
        "clip_text": fingerprint_fields(config.clip_text) if "text" in arm.reducer.needs else {},
        "engine": {"kind": type(config.engine).__name__, **fingerprint_fields(config.engine)},
        "decoding": fingerprint_fields(config.decoding),
        "image": fingerprint_fields(config.imaging),
        **fingerprint_fields(config.limits),
        **fingerprint_fields(config.options),
    }
    return geometry, parts


def _require_unit_fits(config: RunConfig, geometry: Geometry) -> None:
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


def _require_device(config: RunConfig) -> None:
    import torch

    if (
        config.options.device == "cuda"
        and config.cluster.address == "local"
        and not torch.cuda.is_available()
    ):
        raise ConfigError("device=cuda: torch sees no GPU on this machine")


def _require_writable(config: RunConfig, output: str) -> None:
    with config.storage.reaching("output", output):
        fs, folder = config.storage.open(output)
        probe = f"{folder}/.probe"
        write_atomic(fs, probe, b"")
        fs.rm_file(probe)


def _run_units(config: RunConfig, prepared: Prepared) -> None:
    from pipeline.flow import run_flow

    start_ray(config.cluster, config.options.device)
    total = sum(prepared.plan.size(shard) for shard in prepared.pending)
    with Progress(total, _known_samples(prepared)) as progress:
        for stats in run_flow(config, prepared, attempt=f"{time.time():.3f}"):
            progress.add(stats)


def _known_samples(prepared: Prepared) -> int | None:
    """How many samples are left, if the plan knows: that of a tar is known once it has been read."""
    counts = prepared.plan.table["samples"]
    left = 0
    for shard in prepared.pending:
        count = counts[shard].as_py()
        if count is None:
            return None
        left += count - sum(unit.stop - unit.first for unit in prepared.finished.units(shard))
    return left


def _conclude(config: RunConfig, prepared: Prepared, message: str) -> Outcome:
    """Summary, exit status and, if all is well, _SUCCESS as the last file."""
    _take_back_success(config, prepared)
    summary = summarise(prepared.output, prepared.plan, prepared.finished, config.storage)
    ok, rows = summary["status"].get("ok", 0), summary["rows"]
    if summary["failed_shards"]:
        first = summary["failed_shards_named"][0]
        text = f"{summary['failed_shards']} shards could not be read whole"
        return Outcome(1, summary, f"{text}; shard {first['shard']}: {first['error']}")
    allowed = config.options.max_failed_fraction
    if rows - ok > allowed * rows:
        text = f"{rows - ok} of {rows} rows failed, more than max_failed_fraction={allowed}"
        return Outcome(3, summary, text)
    fs, folder = config.storage.open(prepared.output)
    write_atomic(fs, f"{folder}/_SUCCESS", b"")
    return Outcome(0, summary, message)


def _take_back_success(config: RunConfig, prepared: Prepared) -> None:
    """Remove the mark of an earlier end: the output has grown since, lost a file, or is measured anew."""
    fs, folder = config.storage.open(prepared.output)
    if fs.exists(f"{folder}/_SUCCESS"):
        fs.rm_file(f"{folder}/_SUCCESS")
