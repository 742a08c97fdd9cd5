"""Declares the configuration of a run, and its outcome."""

from dataclasses import dataclass, field, replace
from typing import Any, Self

from pipeline.engines.base import EngineConfig
from pipeline.models.config import DEVICES, Decoding, Model
from pipeline.output.manifest import Manifest, find_manifest
from pipeline.output.summary import Summary
from pipeline.output.units import UnitLimits
from pipeline.run.cluster.resources import LOOPBACK, Cluster
from pipeline.run.slices import Slice, parse_slice
from pipeline.sources.base import Source
from pipeline.sources.task import Task
from pipeline.stages.arms import Arm
from pipeline.stages.clip_text import ClipText
from pipeline.stages.imaging import Imaging
from pipeline.storage.uris import Storage, canonical
from pipeline.support import log
from pipeline.support.fields import counted, free, require
from pipeline.support.schema import FAULTS


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """Holds the top-level keys of a run."""

    output: str = free("output")
    limit: int | None = counted(None)
    extend: bool = free(False)
    slice: str | None = free(None)
    seed: int = counted(0)
    device: str = free("auto")
    max_failed_fraction: float = free(0.1)
    retry_failed: bool = free(False)
    retry_statuses: list[str] = free(default_factory=lambda: ["bad_sample", "bad_image", "failed"])
    log: str = free("text")
    metrics_port: int | None = free(None)
    metrics_host: str = free(LOOPBACK)

    def __post_init__(self) -> None:
        require(bool(self.output), "output must not be empty")
        require(self.limit is None or self.limit >= 1, "limit must be at least 1")
        require(not (self.extend and self.limit), "extend and limit exclude each other")
        if self.slice is not None:
            parse_slice(self.slice)
        require(self.device in DEVICES, f"device: {self.device!r} is none of {DEVICES}")
        for status in self.retry_statuses:
            require(status in FAULTS, f"retry_statuses: {status!r} is none of {FAULTS}")
        port = self.metrics_port
        require(port is None or 0 < port < 1 << 16, f"metrics_port: {port} is no port")
        require(bool(self.metrics_host), "metrics_host must not be empty; 0.0.0.0 lets all machines read")
        require(self.log in log.FORMATS, f"log: {self.log!r} is none of {log.FORMATS}")
        require(0 <= self.max_failed_fraction <= 1, "max_failed_fraction must be in [0, 1]")

    @property
    def own_slice(self) -> Slice | None:
        """The slice of the plan that the run makes; None: all of it."""
        return None if self.slice is None else parse_slice(self.slice)


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Holds the configuration of a run. `settings` is the same as JSON, without credentials, for run.json."""

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
    settings: dict[str, Any]  # JSON of any form
    source_storage: Storage | None = None  # None: the same as `storage`

    @property
    def reading(self) -> Storage:
        """How to reach the source, whose listings pass over the run's own outputs."""
        output = canonical(self.options.output, self.storage)
        reading = self.source_storage or self.storage
        return reading.passing_over_outputs(self.storage, output, *self.folders)

    @property
    def folders(self) -> list[str]:
        """The canonical URI of each arm's output."""
        output = canonical(self.options.output, self.storage)
        return [f"{output}/{arm.folder}".rstrip("/") for arm in self.arms]

    def first_manifest(self) -> Manifest | None:
        """Read run.json of the first arm that has one; ConfigError if it is damaged."""
        manifests = (find_manifest(folder, self.storage) for folder in self.folders)
        return next(filter(None, manifests), None)

    def enduring(self) -> Self:
        """Return the same configuration with storage that retries; see `Storage.enduring`."""
        source = self.source_storage and self.source_storage.enduring()
        return replace(self, storage=self.storage.enduring(), source_storage=source)

    def redact(self, text: str) -> str:
        """Return `text` as one line, without the credentials of output and source."""
        return (self.source_storage or self.storage).redact(self.storage.redact(text))


@dataclass(frozen=True)
class Outcome:
    """Holds how a run ended: exit status, summary, notes, and a last line that says what to do next."""

    status: int
    summary: Summary
    message: str
    run_id: str = ""
    notes: tuple[str, ...] = ()
