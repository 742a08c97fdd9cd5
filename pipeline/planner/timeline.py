"""Arranges the footers of one start of a job as arrays: when each unit was at each stage.

V units, S stages. Seconds count from the start of the job, Ray's own start included.
"""

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.output.footers import Footer

STAGES = ("read", "decode", "encode", "generate", "write")
ACTORS = ("encode", "generate")  # the other stages are tasks
_RAN_DRY = 2  # with more units waiting behind a stage, its hand-overs include backpressure and do not count


@dataclass(frozen=True)
class Timeline:
    """Holds the times of V units at S stages, in the order of their ends.

    Args:
        start_VS, end_VS, cpu_VS: [V, S] when a stage began and ended a unit, and the CPU seconds of its
        process
            in between.
        process_VS: [V, S] a number for each process.
        startup_VS: [V, S] seconds in which the process loaded its model.
    """

    start_VS: NDArray[np.float64]
    end_VS: NDArray[np.float64]
    cpu_VS: NDArray[np.float64]
    process_VS: NDArray[np.int64]
    startup_VS: NDArray[np.float64]

    @property
    def first(self) -> NDArray[np.bool_]:
        """Whether a visit is its process's first at the stage, [V, S]: it includes imports."""
        is_first = np.zeros(self.start_VS.shape, bool)
        for place in range(len(STAGES)):
            for process in np.unique(self.process_VS[:, place]):
                visits = np.flatnonzero(self.process_VS[:, place] == process)
                is_first[visits[np.argmin(self.start_VS[visits, place])], place] = True
        return is_first

    def starting(self, place: int, servers: int) -> NDArray[np.bool_]:
        """Mark the visits that are the first of one of the stage's first `servers` processes, [V].

        Processes that Ray starts later, in the place of idle ones that it ended, belong to the steady state.
        """
        first = np.flatnonzero(self.first[:, place])
        is_starting = np.zeros(len(self.start_VS), bool)
        is_starting[first[np.argsort(self.start_VS[first, place], kind="stable")[:servers]]] = True
        return is_starting

    def at_once(self, place: int) -> int:
        """Count the most units that a stage worked on at once."""
        return _at_once(self.start_VS[:, place], self.end_VS[:, place])

    def loading(self) -> list[tuple[float, float]]:
        """Estimate when each process loaded its model; it ends at the process's first unit or before."""
        spans = [
            (start - startup, start)
            for start, startup in zip(self.start_VS[self.first], self.startup_VS[self.first], strict=True)
            if startup > 0
        ]
        return sorted((max(0.0, first), last) for first, last in spans)

    def handovers(self, place: int, servers: int) -> NDArray[np.float64]:
        """Collect the seconds between a unit with a free server and the start of its work.

        Units of the start are left out, and units while others waited before the next stage: backpressure may
        have delayed them. If none remain, the shortest is returned.
        """
        order = np.argsort(self.start_VS[:, place], kind="stable")
        start, end = self.start_VS[order, place], self.end_VS[order, place]
        arrived = self.end_VS[order, place - 1] if place else np.zeros(len(order))
        ends: list[float] = []
        gaps = np.zeros(len(order))
        for number in range(len(order)):
            free = heapq.heappop(ends) if len(ends) >= servers else 0.0
            gaps[number] = max(0.0, start[number] - max(arrived[number], free))
            heapq.heappush(ends, end[number])
        warm = ~self.starting(place, servers)[order]
        counted = warm & (self._waiting_behind(place, start) <= _RAN_DRY)
        if counted.any():
            return gaps[counted]
        return np.array([gaps[warm].min() if warm.any() else 0.0])

    def _waiting_behind(self, place: int, at: NDArray[np.float64]) -> NDArray[np.int64]:
        """Count the units that had left a stage and not yet entered the next one, at some times."""
        if place + 1 == len(STAGES):
            return np.zeros(len(at), np.int64)
        departed = np.searchsorted(np.sort(self.end_VS[:, place]), at)
        entered = np.searchsorted(np.sort(self.start_VS[:, place + 1]), at)
        return departed - entered


def timeline_of(footers: Sequence[Footer]) -> Timeline:
    """Arrange the footers of one start of a job; KeyError if one lacks a figure."""
    began = float(footers[0].attempt)
    units = sorted(footers, key=lambda footer: footer.end_time)
    visits = [[unit.stages[stage] for stage in STAGES] for unit in units]

    def array(name: str) -> NDArray[np.float64]:
        values = [[getattr(visit, name) for visit in row] for row in visits]
        if any(value is None for row in values for value in row):
            raise KeyError(name)
        return np.array(values, float)

    known: dict[tuple[str, int], int] = {}
    processes = [[known.setdefault(visit.process, len(known)) for visit in row] for row in visits]
    start, end = array("start") - began, array("end") - began
    # `read` takes its first sample before it starts its clock
    samples = np.array([max(2, unit.samples) for unit in units])
    start[:, 0] -= (end[:, 0] - start[:, 0]) / (samples - 1)
    process = np.array(processes)
    return Timeline(start, end, _shared_cpu(array("cpu_s"), start, end, process), process, array("startup_s"))


def _shared_cpu(
    cpu: NDArray[np.float64], start: NDArray[np.float64], end: NDArray[np.float64], process: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Share out a process's CPU seconds among the units of a stage that it worked on at once."""
    shared = cpu.copy()
    for place in range(len(STAGES)):
        for number in np.unique(process[:, place]):
            visits = process[:, place] == number
            begins, ends = start[visits, place], end[visits, place]
            if _at_once(begins, ends) > 1:
                shared[visits, place] *= _covered(begins, ends) / (ends - begins).sum()
    return shared


def _at_once(start: NDArray[np.float64], end: NDArray[np.float64]) -> int:
    """Count the most spans that overlap at one time; spans that only touch do not overlap."""
    times = np.concatenate([end, start])
    steps = np.concatenate([-np.ones(len(end)), np.ones(len(start))])
    return max(1, int(np.cumsum(steps[np.argsort(times, kind="stable")]).max()))


def _covered(start: NDArray[np.float64], end: NDArray[np.float64]) -> float:
    """Sum the seconds that at least one span covers."""
    order = np.argsort(start)
    reached = np.maximum.accumulate(end[order])
    before = np.concatenate([[-np.inf], reached[:-1]])
    return float(np.maximum(0.0, end[order] - np.maximum(start[order], before)).sum())
