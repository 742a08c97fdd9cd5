"""Attributes the job's wall time to its arms.

A job is provisioned from the first unit's start to the last one's end, attempt by attempt (a run that was
stopped and started again has several), less the time that its first unit waited for models to load. Those
seconds, idle ones included, are split among the arms in proportion to their busy seconds: the time that
stages spent on their requests, failed ones included. Arms that share a unit decode and encode it once, so
there are two accounts:

    as if alone   an arm's busy seconds include all of its decoding and encoding, at the job's rate of
                  provisioned to busy seconds: the time that the arm would have taken by itself
    shared        common work is counted once and split in proportion to the arms' own figures: the
                  accounts of all arms add up to the seconds of the job

For example, two arms answer one unit in a job of 15 seconds. Decoding and encoding take 1 s each, once for
both; generating takes 6 s for `full` and 2 s for `trim`. The stages were busy for 10 of the 15 seconds, so a
busy second counts for 15 / 10 = 1.5 provisioned ones:

                  busy seconds                       provisioned seconds
                  full             trim              full             trim            both
    as if alone   1 + 1 + 6 = 8    1 + 1 + 2 = 4     8 * 1.5 = 12     4 * 1.5 = 6
    shared        .5 + .5 + 6 = 7  .5 + .5 + 2 = 3   7 * 1.5 = 10.5   3 * 1.5 = 4.5   15
"""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from pipeline.output.footers import Footer

PER_ARM = ("reduce_s", "generate_s")  # generate_s includes prefill_s
COMMON = {"image_decode_s": "decode", "encode_s": "encode"}  # and the stage that arms may share
BUSY = (*COMMON, *PER_ARM)
_STAGES = ("read", "decode", "encode", "generate")
_MOST_POINTS = 200


@dataclass(frozen=True)
class Provisioned:
    """Holds how long an arm occupied the machine.

    Args:
        alone, shared: see above; neither includes start-up.
        busy: of its stages, with all of its decoding and encoding.
        startup: of the slowest process to load its models, summed over attempts.
    """

    alone: float
    shared: float
    busy: float
    startup: float


@dataclass
class _Attempt:
    """Collects one start of the job: its time span, and each arm's busy seconds."""

    begin: float = np.inf
    end: float = -np.inf
    first: float = np.inf  # when the first unit entered `generate`
    waited: float = 0.0  # seconds that this unit had waited between stages
    startup: float = 0.0
    alone: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    shared: dict[str, float] = field(default_factory=lambda: defaultdict(float))

    def add(self, footer: Footer) -> None:
        stages = footer.stages
        self.begin, self.end = min(self.begin, footer.start), max(self.end, footer.end_time)
        self.startup = max(self.startup, *(visit.startup_s for visit in stages.values()))
        if stages["generate"].start < self.first:
            self.first = stages["generate"].start
            visits = [stages[stage] for stage in _STAGES if stage in stages]
            gaps = (after.start - before.end for before, after in pairwise(visits))
            self.waited = sum(max(0.0, gap) for gap in gaps)

    @property
    def work_begins(self) -> float:
        return self.begin + min(self.waited, self.startup)

    @property
    def seconds(self) -> float:
        return self.end - self.work_begins


class MachineTime:
    """Adds up footers, unit by unit; memory holds a few numbers of each unit."""

    def __init__(self) -> None:
        self.peak_memory_bytes: dict[str, dict[str, int]] = defaultdict(dict)
        self.peak_gpu_memory_bytes: dict[str, dict[str, int]] = defaultdict(dict)  # of stages on a GPU
        self.interleaved = True  # whether all arms shared each unit's pass through `encode`
        self._attempts: dict[str, _Attempt] = defaultdict(_Attempt)
        self._finished: dict[str, list[tuple[str, float, int]]] = defaultdict(list)

    def add(self, footers: Mapping[str, Footer]) -> None:
        """Add one unit's footers by arm."""
        self.interleaved &= len({_pass(footer, "encode") for footer in footers.values()}) == 1
        for arm, footer in footers.items():
            attempt = self._attempts[footer.attempt]
            attempt.add(footer)
            attempt.alone[arm] += sum(footer.totals.seconds[name] for name in BUSY)
            self._finished[arm].append((footer.attempt, footer.end_time, footer.totals.ok))
            for stage, visit in footer.stages.items():
                _raise_peak(self.peak_memory_bytes[arm], stage, visit.peak_memory_bytes)
                _raise_peak(self.peak_gpu_memory_bytes[arm], stage, visit.peak_gpu_memory_bytes)
        for arm, seconds in shared_seconds(footers).items():
            self._attempts[footers[arm].attempt].shared[arm] += seconds

    def provisioned(self, arm: str) -> Provisioned:
        """Compute the arm's seconds of the job."""
        attempts = [attempt for attempt in self._attempts.values() if arm in attempt.alone]
        return Provisioned(
            alone=sum(_share(attempt, attempt.alone[arm], attempt.seconds) for attempt in attempts),
            shared=sum(
                _share(attempt, attempt.shared[arm], attempt.seconds / len(attempt.alone))
                for attempt in attempts
            ),
            busy=sum(attempt.alone[arm] for attempt in attempts),
            startup=sum(attempt.startup for attempt in attempts),
        )

    def throughput(self, arm: str) -> list[list[float]]:
        """Return at most 200 pairs: seconds since the start, without pauses of the job, and answers."""
        before, offset = 0.0, {}
        names = {attempt for attempt, _, _ in self._finished[arm]}
        for name in sorted(names, key=lambda name: self._attempts[name].begin):
            offset[name] = before - self._attempts[name].work_begins
            before += self._attempts[name].seconds
        points = sorted((offset[name] + end, ok) for name, end, ok in self._finished[arm])
        answered = np.cumsum([ok for _, ok in points])
        places = np.unique(np.linspace(0, len(points) - 1, min(len(points), _MOST_POINTS)).astype(int))
        return [[round(float(points[place][0]), 3), int(answered[place])] for place in places]


def _raise_peak(peaks: dict[str, int], stage: str, peak: int | None) -> None:
    if peak is not None:
        peaks[stage] = max(peaks.get(stage, 0), peak)


def _share(attempt: _Attempt, busy: float, otherwise: float) -> float:
    """Compute an arm's seconds of an attempt; `otherwise` if no stage was busy with any request."""
    total = sum(attempt.shared.values())
    return attempt.seconds * busy / total if total else otherwise


def shared_seconds(footers: Mapping[str, Footer]) -> dict[str, float]:
    """Compute each arm's busy seconds of one unit; a pass that several arms share is counted once.

    Arms share a pass if their footers hold the same visit to its stage. It took as long as the longest of
    their accounts (an arm that also encodes texts has a longer one), and is split in proportion to them.
    """
    busy = {arm: sum(footer.totals.seconds[name] for name in PER_ARM) for arm, footer in footers.items()}
    for name, stage in COMMON.items():
        passes: dict[tuple[str, str, int, float], dict[str, float]] = defaultdict(dict)
        for arm, footer in footers.items():
            passes[_pass(footer, stage)][arm] = footer.totals.seconds[name]
        for accounts in passes.values():
            total = sum(accounts.values())
            for arm, seconds in accounts.items():
                busy[arm] += seconds / total * max(accounts.values()) if total else 0.0
    return busy


def _pass(footer: Footer, stage: str) -> tuple[str, str, int, float]:
    visit = footer.stages[stage]
    return footer.attempt, visit.node, visit.pid, visit.start
