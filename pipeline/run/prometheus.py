"""Exports Prometheus metrics of a run: the driver sends them to its node's Ray agent, which serves them.

Every metric has the tag `run_id`, as logs and rows have it (of several arms, with commas between). Tags take
few values: arms, statuses, stages. Ray puts `ray_` before each name, and `_total` behind that of a counter.
"""

import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipeline.stages.write import UnitStats

if TYPE_CHECKING:
    from pipeline.run.guard.ledger_handle import LedgerHandle
    from pipeline.run.prepare import Prepared

STAGES = ("read", "decode", "encode", "generate", "write")
_WATCH_EVERY_S = 5.0
_BOUNDARIES_S = [0.1, 0.3, 1, 3, 10, 30, 100, 300, 1000]


@dataclass(frozen=True)
class Declared:
    """Declares a metric's name, kind (of `ray.util.metrics`), meaning and tags."""

    name: str
    kind: str
    text: str
    tags: tuple[str, ...] = ()

    @property
    def exported(self) -> tuple[str, ...]:
        """The metric's names in Prometheus."""
        suffixes = {"Counter": ("_total",), "Gauge": ("",), "Histogram": ("_bucket", "_count", "_sum")}
        return tuple(f"ray_{self.name}{suffix}" for suffix in suffixes[self.kind])


REQUESTS = Declared(
    "trimline_requests", "Counter", "Requests answered or failed, by status", ("arm", "status")
)
TOKENS_FULL = Declared(
    "trimline_visual_tokens_full", "Counter", "Visual tokens before the reduction", ("arm",)
)
TOKENS_KEPT = Declared("trimline_visual_tokens_kept", "Counter", "Visual tokens that were kept", ("arm",))
TOKENS_OUT = Declared("trimline_generated_tokens", "Counter", "Tokens generated", ("arm",))
SAMPLES = Declared("trimline_samples", "Counter", "Samples in units that are written")
UNITS = Declared("trimline_units", "Counter", "Units that are written")
BYTES = Declared("trimline_source_bytes", "Counter", "Bytes of the source in units that are written")
PLANNED = Declared("trimline_source_bytes_planned", "Gauge", "Bytes of the source that this start has to do")
STAGE_SECONDS = Declared("trimline_stage_seconds", "Histogram", "Seconds of a unit in a stage", ("stage",))
IN_STAGE = Declared(
    "trimline_units_in_stage", "Gauge", "Units begun and not ended (read: shards)", ("stage",)
)
DECLARED = (
    *(REQUESTS, TOKENS_FULL, TOKENS_KEPT, TOKENS_OUT),
    *(SAMPLES, UNITS, BYTES, PLANNED, STAGE_SECONDS, IN_STAGE),
)
_OF_TOTALS = {
    TOKENS_FULL: "visual_tokens_full",
    TOKENS_KEPT: "visual_tokens_kept",
    TOKENS_OUT: "generated_tokens",
}


def metrics_of(prepared: "Prepared", planned_bytes: int) -> "Metrics":
    """Make the metrics of a run that is about to start."""
    return Metrics(prepared.run_id, [state.arm.name for state in prepared.states], planned_bytes)


class Metrics:
    """Counts finished units, and the units that the ledger says are in work."""

    def __init__(self, run_id: str, arms: Sequence[str], planned_bytes: int) -> None:
        self._run_id, self._arms = run_id, list(arms)
        self._made = {metric: _made(metric) for metric in DECLARED}
        self._planned_bytes = planned_bytes

    def _tags(self, **more: str) -> dict[str, str]:
        return {"run_id": self._run_id, **more}

    def _count(self, metric: Declared, value: float, **tags: str) -> None:
        if value > 0:  # Ray refuses to count nothing
            self._made[metric].inc(value, self._tags(**tags))

    def add(self, stats: UnitStats) -> None:
        """Count one unit."""
        self._count(UNITS, 1)
        self._count(SAMPLES, stats.samples)
        self._count(BYTES, stats.source_bytes)
        for stage, seconds in stats.stage_s.items():
            self._made[STAGE_SECONDS].observe(seconds, self._tags(stage=stage))
        for arm, totals in zip(stats.arms, stats.totals, strict=True):
            name = self._arms[arm]
            for status, count in totals.status.items():
                self._count(REQUESTS, count, arm=name, status=status)
            for metric, column in _OF_TOTALS.items():
                self._count(metric, totals.tokens[column], arm=name)

    @contextmanager
    def watching(self, ledger: "LedgerHandle") -> Iterator[None]:
        """Ask the ledger every few seconds, until the block ends, which units are in work."""
        ended = threading.Event()
        thread = threading.Thread(target=self._watch, args=(ledger, ended), daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join(_WATCH_EVERY_S)
            self._show(Counter())

    def _watch(self, ledger: "LedgerHandle", ended: threading.Event) -> None:
        import ray

        while not ended.wait(_WATCH_EVERY_S):
            try:
                _, in_work = ledger.in_work(timeout_s=_WATCH_EVERY_S)
            except ray.exceptions.RayError:  # the run ends, or the ledger has much to do
                continue
            self._show(Counter(entry.item.stage for entry in in_work))

    def _show(self, under_way: Counter[str]) -> None:
        """Set the gauges; Ray forgets one that is not set again before the next scrape."""
        self._made[PLANNED].set(self._planned_bytes, self._tags())
        for stage in STAGES:
            self._made[IN_STAGE].set(under_way[stage], self._tags(stage=stage))


def _made(metric: Declared) -> Any:  # one of three classes of Ray's, without a common base of use
    import ray.util.metrics

    options = {"boundaries": _BOUNDARIES_S} if metric.kind == "Histogram" else {}
    kind = getattr(ray.util.metrics, metric.kind)
    return kind(metric.name, description=metric.text, tag_keys=("run_id", *metric.tags), **options)
