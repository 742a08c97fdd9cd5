"""Concludes the state of an output, or of every arm of a comparison, from its files alone."""

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from statistics import median
from typing import Any

from pipeline.output.manifest import load_manifest
from pipeline.output.opened import outputs_at
from pipeline.output.plan import require_plan
from pipeline.output.summary import Summary, is_successful, summary_of
from pipeline.output.units import finished_units
from pipeline.status.extent import Extent, extent_of
from pipeline.status.sample import Sampled, rate_of, read_sample
from pipeline.status.slice_states import GAPS, LEAST_S, SliceState, slice_states
from pipeline.storage.uris import Storage, write_atomic
from pipeline.support.census import Census
from pipeline.support.fields import free, require

_COUNTED = (
    "rows",
    "status",
    "rows_by_device",
    "tokens",
    "failed_shard_count",
    "failed_shards",
    "passed_over",
)


@dataclass(frozen=True, kw_only=True)
class Look:
    """Configures `trimline status`.

    Args:
        output: of `annotate` or `compare`: running, stopped or finished.
        footers: how many units' footers are read at most, of each arm.
        sums: how many finished shards' sums are read at most, of each arm.
        shards: how many of the shards under way, and of those that broke off, are named.
        json: a file or URI for the state as data, or `-` for stdout in the text's place; None: none.
    """

    output: str = free()
    footers: int = free(256)
    sums: int = free(10_000)
    shards: int = free(10)
    json: str | None = free(None)

    def __post_init__(self) -> None:
        require(bool(self.output), "output must not be empty")
        require(self.footers >= 2, "footers must be at least 2")
        require(self.sums >= 0, "sums must not be negative")
        require(self.shards >= 0, "shards must not be negative")


@dataclass(frozen=True)
class Status:
    """Holds one output's state.

    `state` is `finished` (_SUCCESS is there), `ended` (all units are, without _SUCCESS: rows or shards have
    failed, or the run is at its summary), `running` or `stopped` (concluded from when the newest units came)
    or `empty` (no unit yet). `quiet_s`: since the newest unit came. `counted_units` is how many units `rows`,
    `status`, `tokens`, `failed_shards` and `passed_over` are of; `failed_shards` has why shards could not be
    read whole, the first of `failed_shard_count`, and `failed_shard_uris` where these are; `passed_over` has
    number and first names of the source's entries of which no sample was made, by reason; `repeated` is that
    of summary.json, None without one; `rows_by_device` as there; the rates are of the newest units.
    """

    output: str
    run_id: str
    state: str
    quiet_s: float | None
    extent: Extent
    slices: list[SliceState]
    samples_per_s: float | None
    requests_per_s: float | None
    left_s: float | None
    counted_units: int
    rows: int
    status: dict[str, int]
    tokens: dict[str, int]
    failed_shard_count: int
    failed_shards: dict[int, str]
    failed_shard_uris: dict[int, str]
    passed_over: dict[str, str]
    repeated: dict[str, Any] | None
    rows_by_device: dict[str, int] | None
    damaged: int

    @property
    def estimated(self) -> list[str]:
        """Name the values that are estimates or counts of a part."""
        names = ["state"] if self.state in ("running", "stopped") else []
        names += ["samples_in_all", "samples_left"] if self.extent.estimated else []
        names += ["left_s"] if self.left_s else []
        partial = self.counted_units < self.extent.units
        return names + ([*_COUNTED] if partial else [])

    def to_json(self) -> dict[str, object]:
        """Return everything as data."""
        data = asdict(self)
        extent = data.pop("extent")
        del extent["estimated"]
        return {**data, **extent, "samples_left": self.extent.samples_left, "estimated": self.estimated}


def look(options: Look, storage: Storage) -> list[Status]:
    """Read the state of an output, or of each arm of a comparison; writes nothing but `options.json`.

    Raises:
        ConfigError: there is no output, its run.json or plan is damaged, or it cannot be reached.
    """
    states = [_look(folder, options, storage) for folder in outputs_at(options.output, storage)]
    if options.json is not None and options.json != "-":
        with storage.reaching("json", options.json):
            write_atomic(*storage.open(options.json), as_json(states, storage).encode())
    return states


def as_json(states: list[Status], storage: Storage) -> str:
    """Write the states as JSON, without credentials."""
    return storage.as_json([state.to_json() for state in states], indent=2)


def _look(folder: str, options: Look, storage: Storage) -> Status:
    manifest = load_manifest(folder, storage)
    with storage.reaching("output", folder):
        marked = is_successful(folder, storage)
        plan = require_plan(folder, storage)
        finished = finished_units(folder, storage, planned=len(plan))
        summary = summary_of(folder, finished.count, storage)
        sampled = (
            Sampled()
            if summary
            else read_sample(folder, plan, finished, options.footers, options.sums, storage)
        )
        slices = slice_states(folder, finished, storage)
    extent = extent_of(plan, finished, options.shards)
    quiet_s = max(0.0, time.time() - float(finished.times.max())) if finished.count else None
    state = _state(marked, extent, quiet_s, sampled, slices)
    sampled.census.add(plan.census)
    counted = _of_sample(sampled, options.shards) if summary is None else _of_summary(summary, options.shards)
    if state == "running" and (running := [one for one in slices if one.state == "running"]):
        counted |= _rates_of(running, sampled)
    return Status(
        output=folder,
        run_id=manifest.run_id,
        state=state,
        quiet_s=quiet_s,
        extent=extent,
        slices=slices,
        left_s=_left_s(extent, counted["samples_per_s"]),
        failed_shard_uris={
            shard: plan.line(shard).uri for shard in counted["failed_shards"] if shard < len(plan)
        },
        **counted,
    )


def _rates_of(running: Sequence[SliceState], sampled: Sampled) -> dict[str, float | None]:
    """Add up the rates of slices at work; requests go with samples as in what was counted."""
    samples_per_s = sum(one.samples_per_s or 0.0 for one in running)
    if not samples_per_s:
        return {"samples_per_s": None, "requests_per_s": None}
    a_sample = sampled.rows / sampled.samples if sampled.samples else 0.0
    return {"samples_per_s": samples_per_s, "requests_per_s": samples_per_s * a_sample}


def _state(
    marked: bool,
    extent: Extent,
    quiet_s: float | None,
    sampled: Sampled,
    slices: Sequence[SliceState],
) -> str:
    if extent.complete:
        return "finished" if marked else "ended"
    if quiet_s is None:
        return "empty"
    if any(one.state == "running" for one in slices):
        return "running"
    ends = sorted(footer.end_time for footer in sampled.newest)
    gaps = [later - earlier for earlier, later in pairwise(ends)]
    return "running" if quiet_s < max(LEAST_S, GAPS * median(gaps or [0.0])) else "stopped"


def _left_s(extent: Extent, samples_per_s: float | None) -> float | None:
    samples = extent.samples_left
    return samples / samples_per_s if samples_per_s and samples is not None else None


def _of_summary(summary: Summary, most_shards: int) -> dict[str, Any]:
    """Take the counts of summary.json, which are of all units."""
    return {
        "samples_per_s": summary.samples_per_s,
        "requests_per_s": summary.requests_per_s,
        "counted_units": summary.units,
        "rows": summary.rows,
        "status": summary.status,
        "tokens": summary.tokens,
        "failed_shard_count": summary.failed_shards,
        "failed_shards": {failed.shard: failed.error for failed in summary.failed_shards_named[:most_shards]},
        "passed_over": Census.from_json(summary.census).reasons() if summary.census else {},
        "repeated": summary.repeated,
        "rows_by_device": summary.rows_by_device,
        "damaged": 0,
    }


def _of_sample(sampled: Sampled, most_shards: int) -> dict[str, Any]:
    """Take the counts of the footers that were read."""
    samples_per_s, requests_per_s = rate_of(sampled.newest) or (None, None)
    return {
        "samples_per_s": samples_per_s,
        "requests_per_s": requests_per_s,
        "counted_units": sampled.units,
        "rows": sampled.rows,
        "status": dict(sorted(sampled.status.items())),
        "tokens": dict(sampled.tokens),
        "failed_shard_count": len(sampled.shard_errors),
        "failed_shards": dict(sorted(sampled.shard_errors.items())[:most_shards]),
        "passed_over": sampled.census.reasons(),
        "repeated": None,
        "rows_by_device": dict(sampled.rows_by_device),
        "damaged": sampled.damaged,
    }
