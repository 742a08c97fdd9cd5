"""Whose time it was: the footers' seconds, shared out among the arms.

A job is provisioned from the first unit's start to the last one's end, attempt by attempt (a run that was
stopped and started again has several), less what its first unit waited for models to be loaded. Those
seconds, idle ones included, are split among the arms in proportion to their busy seconds: what the stages
spent on their requests, failed ones included. Decoding and CLIP are done once for arms that share a unit, so
there are two accounts:

    as if alone   each arm's busy seconds hold all of its decoding and encoding, at the job's rate of
                  provisioned to busy seconds: what the arm would have taken by itself
    shared        what was done once is counted once, split in proportion to the arms' own figures: the
                  accounts of all arms add up to the seconds of the job
"""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from pipeline.output.footers import Footer

OWN = ("reduce_s", "generate_s")  # generate_s includes prefill_s
COMMON = {"image_decode_s": "decode", "encode_s": "encode"}  # and the stage whose visit tells who shared it
BUSY = (*COMMON, *OWN)
_WAY = ("read", "decode", "encode", "generate")
_MOST_POINTS = 200


@dataclass(frozen=True)
class Provisioned:
    """An arm's seconds of the machine.

    Args:
        alone, shared: as above; start-up is in neither.
        busy: of its stages, decoding and encoding in full.
        startup: of the slowest process to load its models, summed over attempts.
    """

    alone: float
    shared: float
    busy: float
    startup: float


@dataclass
class _Attempt:
    """One start of the job: when it worked, and each arm's busy seconds in it."""

    begin: float = np.inf
    end: float = -np.inf
    first: float = np.inf  # when the first unit entered `generate`
    waited: float = 0.0  # how long that unit stood still on its way there
    startup: float = 0.0
    alone: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    shared: dict[str, float] = field(default_factory=lambda: defaultdict(float))

    def see(self, footer: Footer) -> None:
        stages = footer.stages
        self.begin, self.end = min(self.begin, footer.start), max(self.end, footer.end_time)
        self.startup = max(self.startup, *(visit.startup_s for visit in stages.values()))
        if stages["generate"].start < self.first:
            self.first = stages["generate"].start
            way = [stages[stage] for stage in _WAY if stage in stages]
            gaps = (after.start - before.end for before, after in pairwise(way))
            self.waited = sum(max(0.0, gap) for gap in gaps)

    @property
    def work_begins(self) -> float:
        return self.begin + min(self.waited, self.startup)

    @property
    def seconds(self) -> float:
        return self.end - self.work_begins


class Clock:
    """Reads footers, unit by unit; a few numbers of each unit are kept."""

    def __init__(self) -> None:
        self.peak_memory_bytes: dict[str, dict[str, int]] = defaultdict(dict)
        self.peak_gpu_memory_bytes: dict[str, dict[str, int]] = defaultdict(dict)  # of stages on a GPU
        self.ran_together = True  # whether all arms went through `encode` together, unit by unit
        self._attempts: dict[str, _Attempt] = defaultdict(_Attempt)
        self._finished: dict[str, list[tuple[str, float, int]]] = defaultdict(list)

    def add(self, footers: Mapping[str, Footer]) -> None:
        """One unit's footers by arm."""
        self.ran_together &= len({_visit(footer, "encode") for footer in footers.values()}) == 1
        for arm, footer in footers.items():
            attempt = self._attempts[footer.attempt]
            attempt.see(footer)
            attempt.alone[arm] += sum(footer.totals.seconds[name] for name in BUSY)
            self._finished[arm].append((footer.attempt, footer.end_time, footer.totals.ok))
            for stage, visit in footer.stages.items():
                _raise_peak(self.peak_memory_bytes[arm], stage, visit.peak_memory_bytes)
                _raise_peak(self.peak_gpu_memory_bytes[arm], stage, visit.peak_gpu_memory_bytes)
        for arm, seconds in shared_seconds(footers).items():
            self._attempts[footers[arm].attempt].shared[arm] += seconds

    def provisioned(self, arm: str) -> Provisioned:
        """The arm's seconds of the job."""
        taken = [attempt for attempt in self._attempts.values() if arm in attempt.alone]
        return Provisioned(
            alone=sum(_part(attempt, attempt.alone[arm], attempt.seconds) for attempt in taken),
            shared=sum(
                _part(attempt, attempt.shared[arm], attempt.seconds / len(attempt.alone)) for attempt in taken
            ),
            busy=sum(attempt.alone[arm] for attempt in taken),
            startup=sum(attempt.startup for attempt in taken),
        )

    def throughput(self, arm: str) -> list[list[float]]:
        """At most 200 pairs: seconds since the start, pauses between attempts left out, and answers."""
        before, offset = 0.0, {}
        own = {attempt for attempt, _, _ in self._finished[arm]}
        for name in sorted(own, key=lambda name: self._attempts[name].begin):
            offset[name] = before - self._attempts[name].work_begins
            before += self._attempts[name].seconds
        points = sorted((offset[name] + end, ok) for name, end, ok in self._finished[arm])
        answered = np.cumsum([ok for _, ok in points])
        places = np.unique(np.linspace(0, len(points) - 1, min(len(points), _MOST_POINTS)).astype(int))
        return [[round(float(points[place][0]), 3), int(answered[place])] for place in places]


def _raise_peak(peaks: dict[str, int], stage: str, peak: int | None) -> None:
    if peak is not None:
        peaks[stage] = max(peaks.get(stage, 0), peak)


def _part(attempt: _Attempt, busy: float, otherwise: float) -> float:
    """An arm's seconds of an attempt; `otherwise` if no stage was busy with any request."""
    everything = sum(attempt.shared.values())
    return attempt.seconds * busy / everything if everything else otherwise


def shared_seconds(footers: Mapping[str, Footer]) -> dict[str, float]:
    """Each arm's busy seconds of one unit, with what one pass did for several arms counted once.

    Arms share a pass if the footers tell of the same visit to its stage. It took as long as the longest of
    their accounts (one that reads texts has those on top), and is split in proportion to them.
    """
    found = {arm: sum(footer.totals.seconds[name] for name in OWN) for arm, footer in footers.items()}
    for name, stage in COMMON.items():
        passes: dict[tuple[str, str, int, float], dict[str, float]] = defaultdict(dict)
        for arm, footer in footers.items():
            passes[_visit(footer, stage)][arm] = footer.totals.seconds[name]
        for accounts in passes.values():
            total = sum(accounts.values())
            for arm, seconds in accounts.items():
                found[arm] += seconds / total * max(accounts.values()) if total else 0.0
    return found


def _visit(footer: Footer, stage: str) -> tuple[str, str, int, float]:
    visit = footer.stages[stage]
    return footer.attempt, visit.node, visit.pid, visit.start
