"""Sums up an output from its shards' sums in summary.json, and writes the mark of a successful run."""

import json
import math
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import partial

from pipeline.output.done import sums_of_shards
from pipeline.output.failed_shards import FailedShard, failed_shard
from pipeline.output.footers import Json, known_fields, read_key
from pipeline.output.layout import SUCCESS, SUMMARY
from pipeline.output.plan import Plan
from pipeline.output.repeated import RepeatedNames
from pipeline.output.sums import SumsOfShards
from pipeline.output.units import Finished
from pipeline.storage.uris import Storage, read_bytes, write_atomic
from pipeline.support.census import sum_of
from pipeline.support.progress_lines import telling

_MOST_SHARDS_NAMED = 100


@dataclass(frozen=True, kw_only=True)
class Summary:
    """Declares the content of summary.json.

    Args:
        status: number of rows by status.
        tokens: sums of the columns in `schema.COUNTS`.
        kept_fraction: visual tokens kept / all; None if there are none.
        mean_visual_tokens_kept: per answered request; None if there is none.
        stage_seconds: sums of the columns in `schema.SECONDS`.
        active_seconds: how long some start of the job was under way, from its first unit's start to its last
            one's end.
        starts: how often the job, or a slice of it, was started.
        rows_by_node: number of rows by the node that generated them.
        rows_by_device: by the GPU's name, or `CPU` (see `computed_on`); None: an earlier release wrote it.
        census: what became of the sources' entries, as `Census.to_json` has it; None: no unit tells.
        repeated: how many sample keys, and question ids within one sample, came before, and the first of
            them, as `RepeatedNames.to_json` has them; None: an earlier release wrote some of the units.
        incidents: what happened to GPUs in the last start of the job, as `Incident.to_json` has it; None:
            nothing.
        failed_shards: how many shards could not be read whole; `failed_shards_named` are the first of them.
    """

    source: str
    shards: int
    shards_finished: int
    units: int
    samples: int
    rows: int
    status: dict[str, int]
    tokens: dict[str, int]
    kept_fraction: float | None
    mean_visual_tokens_kept: float | None
    stage_seconds: dict[str, float]
    active_seconds: float
    samples_per_s: float | None
    requests_per_s: float | None
    starts: int
    rows_by_node: dict[str, int]
    failed_shards: int
    failed_shards_named: list[FailedShard]
    census: Json | None = None
    repeated: Json | None = None
    rows_by_device: dict[str, int] | None = None
    incidents: list[Json] | None = None

    @property
    def ok(self) -> int:
        """The number of answered requests."""
        return self.status.get("ok", 0)

    def to_json(self) -> Json:
        """Return the summary as it is written."""
        data = asdict(self)
        kept_fraction = data.pop("kept_fraction")
        for later in ("census", "repeated", "rows_by_device", "incidents"):  # not in those of 0.1.0
            if data[later] is None:
                del data[later]
        return {**data, "tokens": {**self.tokens, "kept_fraction": kept_fraction}}

    @classmethod
    def from_json(cls, data: Json) -> "Summary":
        """Read a summary; ValueError if it is not of the form that `to_json` writes."""
        try:
            tokens = dict(data["tokens"])
            kept_fraction = tokens.pop("kept_fraction")
            failed_shards = [FailedShard(**shard) for shard in data["failed_shards_named"]]
            parsed = {"tokens": tokens, "kept_fraction": kept_fraction, "failed_shards_named": failed_shards}
            return cls(**known_fields(cls, {**data, **parsed}))
        except (KeyError, TypeError) as error:
            raise ValueError(f"it is no summary: {error!r}") from None


class _Totals:
    """Adds up the sums of shards."""

    def __init__(self, repeated: RepeatedNames) -> None:
        self._all = SumsOfShards()
        self._repeated = repeated

    def add(self, sums: SumsOfShards) -> None:
        self._all.add(sums)
        self._repeated.add_hashed(sums.samples, sums.hashes, sums.question_ids)

    def summary(self, plan: Plan, shards: range, finished: Finished, key_at: Callable[[int], str]) -> Summary:
        total = self._all
        census = sum_of([plan.census, total.census])
        active_s = _seconds_covered(total.spans.values())
        ok = total.status.get("ok", 0)
        full, kept = (total.tokens.get(f"visual_tokens_{name}", 0) for name in ("full", "kept"))
        return Summary(
            source=plan.source,
            shards=len(shards),
            shards_finished=sum(finished.has_shard(shard) for shard in shards),
            units=total.units,
            samples=total.samples,
            rows=total.rows,
            status=total.status,
            tokens=total.tokens,
            kept_fraction=kept / full if full else None,
            mean_visual_tokens_kept=kept / ok if ok else None,
            stage_seconds=total.seconds,
            active_seconds=active_s,
            samples_per_s=total.samples / active_s if active_s else None,
            requests_per_s=total.rows / active_s if active_s else None,
            starts=len(total.spans),
            rows_by_node=total.nodes,
            rows_by_device=total.devices,
            failed_shards=len(total.failed),
            failed_shards_named=[
                failed_shard(plan, shard, error) for shard, error in total.failed[:_MOST_SHARDS_NAMED]
            ],
            census=census.to_json() if census.entries else None,
            repeated=self._repeated.to_json(key_at),
        )


def _seconds_covered(spans: Iterable[tuple[float, float]]) -> float:
    """Return the length of the union of some spans: slices of a run may have worked at the same time."""
    covered, reached = 0.0, -math.inf
    for begin, end in sorted(spans):
        if end > reached:
            covered += end - max(begin, reached)
            reached = end
    return covered


def sum_up(
    folder: str, plan: Plan, finished: Finished, storage: Storage, only: range | None = None
) -> Summary:
    """Add up the finished units of an output, and write what done/ lacks of whole shards.

    Args:
        only: the shards to add up; None: all that have units.

    Raises:
        RunError: a unit is not of the plan's shard.
    """
    with RepeatedNames() as repeated:
        totals = _Totals(repeated)
        listed = sums_of_shards(folder, plan, finished, storage, only)
        shards = range(len(plan)) if only is None else only
        for sums in telling(listed, len(shards), "shards summed up", lambda sums: sums.shards):
            totals.add(sums)
        return totals.summary(plan, shards, finished, partial(read_key, folder, finished, storage))


def summarise(
    folder: str, plan: Plan, finished: Finished, storage: Storage, incidents: Sequence[Json] = ()
) -> Summary:
    """Build summary.json of an output and write it; RunError if a unit is not of the plan's shard.

    Args:
        incidents: what happened to GPUs, as `Incident.to_json` has it.
    """
    summary = replace(sum_up(folder, plan, finished, storage), incidents=list(incidents) or None)
    fs, path = storage.open(folder)
    write_atomic(fs, f"{path}/{SUMMARY}", storage.as_json(summary.to_json(), indent=2).encode())
    return summary


def read_summary(folder: str, storage: Storage) -> Summary | None:
    """Read summary.json of an output; None if there is none, ValueError if it is damaged."""
    fs, path = storage.open(folder)
    data = read_bytes(fs, f"{path}/{SUMMARY}")
    return None if data is None else Summary.from_json(json.loads(data))


def summary_of(folder: str, units: int, storage: Storage) -> Summary | None:
    """Read summary.json if it counts `units` units; None if it is absent, damaged or older."""
    try:
        summary = read_summary(folder, storage)
    except ValueError:
        return None
    return summary if summary and units and summary.units == units else None


def is_successful(folder: str, storage: Storage) -> bool:
    """Tell whether the last run of an output succeeded."""
    fs, path = storage.open(folder)
    return bool(fs.exists(f"{path}/{SUCCESS}"))


def mark_success(folder: str, storage: Storage) -> None:
    """Write _SUCCESS, the last file of a successful run."""
    fs, path = storage.open(folder)
    write_atomic(fs, f"{path}/{SUCCESS}", b"")


def take_back_success(folder: str, storage: Storage) -> None:
    """Remove _SUCCESS of an earlier run, before the output changes or its summary is computed again."""
    fs, path = storage.open(folder)
    if fs.exists(f"{path}/{SUCCESS}"):
        with suppress(FileNotFoundError):  # another slice has just removed it
            fs.rm_file(f"{path}/{SUCCESS}")
