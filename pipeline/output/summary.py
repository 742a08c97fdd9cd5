"""Sums up an output from its footers in summary.json, and writes the mark of a successful run."""

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial

from pipeline.output.computed_on import computed_on
from pipeline.output.failed_shards import FailedShard, failed_shard
from pipeline.output.footers import Footer, Json, known_fields, read_footers, read_key
from pipeline.output.layout import SUCCESS, SUMMARY
from pipeline.output.plan import Plan
from pipeline.output.repeated import RepeatedNames
from pipeline.output.units import Finished
from pipeline.storage.uris import Storage, read_bytes, write_atomic
from pipeline.support.census import Census, sum_of
from pipeline.support.errors import RunError

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
        active_seconds: from the first unit's start to the last one's end, summed over the job's starts.
        starts: how often the job was started.
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


@dataclass
class _Sums:
    units: int = 0
    samples: int = 0
    rows: int = 0
    status: Counter[str] = field(default_factory=Counter)
    tokens: Counter[str] = field(default_factory=Counter)
    seconds: dict[str, float] = field(default_factory=dict)
    nodes: Counter[str] = field(default_factory=Counter)
    devices: Counter[str] = field(default_factory=Counter)
    spans: dict[str, tuple[float, float]] = field(default_factory=dict)  # of the job's starts
    failed_shards: list[tuple[int, str]] = field(default_factory=list)
    census: Census = field(default_factory=Census)
    repeated: RepeatedNames = field(default_factory=RepeatedNames)

    def add(self, footer: Footer) -> None:
        totals = footer.totals
        self.units += 1
        self.samples += footer.samples
        self.rows += totals.rows
        self.status.update(totals.status)
        self.tokens.update(totals.tokens)
        for name, seconds in totals.seconds.items():
            self.seconds[name] = self.seconds.get(name, 0) + seconds
        self.nodes[footer.stages["generate"].node] += totals.rows
        self.devices[computed_on(footer.stages)] += totals.rows
        begin, end = self.spans.get(footer.attempt, (footer.start, footer.end_time))
        self.spans[footer.attempt] = (min(begin, footer.start), max(end, footer.end_time))
        if footer.census:
            self.census.add(Census.from_json(footer.census))
        self.repeated.add(footer.samples, footer.sample_keys, footer.repeated_question_ids)
        if footer.shard_error:
            self.failed_shards.append((footer.shard, footer.shard_error))

    def summary(self, plan: Plan, finished: Finished, key_at: Callable[[int], str]) -> Summary:
        census = sum_of([plan.census, self.census])
        active_s = sum(end - begin for begin, end in self.spans.values())
        ok = self.status["ok"]
        full, kept = self.tokens["visual_tokens_full"], self.tokens["visual_tokens_kept"]
        return Summary(
            source=plan.source,
            shards=len(plan),
            shards_finished=sum(finished.has_shard(ordinal) for ordinal in range(len(plan))),
            units=self.units,
            samples=self.samples,
            rows=self.rows,
            status=dict(self.status),
            tokens=dict(self.tokens),
            kept_fraction=kept / full if full else None,
            mean_visual_tokens_kept=kept / ok if ok else None,
            stage_seconds=self.seconds,
            active_seconds=active_s,
            samples_per_s=self.samples / active_s if active_s else None,
            requests_per_s=self.rows / active_s if active_s else None,
            starts=len(self.spans),
            rows_by_node=dict(self.nodes),
            rows_by_device=dict(self.devices),
            failed_shards=len(self.failed_shards),
            failed_shards_named=[
                failed_shard(plan, shard, error) for shard, error in self.failed_shards[:_MOST_SHARDS_NAMED]
            ],
            census=census.to_json() if census.entries else None,
            repeated=self.repeated.to_json(key_at),
        )


def summarise(
    folder: str, plan: Plan, finished: Finished, storage: Storage, incidents: Sequence[Json] = ()
) -> Summary:
    """Build summary.json of an output and write it; RunError if a unit is not of the plan's shard.

    Args:
        incidents: what happened to GPUs, as `Incident.to_json` has it.
    """
    with RepeatedNames() as repeated:
        sums = _Sums(repeated=repeated)
        for footer in read_footers(folder, finished, storage):
            _require_same_shard(footer, plan)
            sums.add(footer)
        summary = sums.summary(plan, finished, partial(read_key, folder, finished, storage))
    summary = replace(summary, incidents=list(incidents) or None)
    fs, path = storage.open(folder)
    write_atomic(fs, f"{path}/{SUMMARY}", storage.as_json(summary.to_json(), indent=2).encode())
    return summary


def _require_same_shard(footer: Footer, plan: Plan) -> None:
    """Refuse a unit of an earlier state of its shard, left by a retry that was killed before deleting it."""
    shard = footer.shard
    planned = plan.line(shard) if shard < len(plan) else None
    if planned is None or (footer.source_size, footer.source_etag) != (planned.size, planned.etag):
        raise RunError(
            f"samples {footer.first} to {footer.stop} of shard {shard} were made of another state of "
            "the shard than the plan's: `trimline verify output=... repair=true` removes them, "
            "a rerun makes them again"
        )


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
        fs.rm_file(f"{path}/{SUCCESS}")
