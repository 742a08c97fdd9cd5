"""When units were where: the footers of one start of a job as arrays, and what can be read off them.

V units, S stages. Seconds count from the start of the job, Ray's own start included.
"""

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.output.footers import Footer

STAGES = ("read", "decode", "encode", "generate", "write")
ACTORS = ("encode", "generate")  # the others are tasks
# A hand-over tells what it costs only where the next stage was about to run dry: else backpressure is in it.
_RAN_DRY = 2


@dataclass(frozen=True)
class Timeline:
    """V units at S stages, in the order of their ends.

    Args:
        start_VS, end_VS, cpu_VS: [V, S] when a stage took a unit, when it was through, and the CPU seconds
            that it took of its process in between.
        process_VS: [V, S] numbers that tell processes apart.
        startup_VS: [V, S] seconds that the process took to load its model.
    """

    start_VS: np.ndarray
    end_VS: np.ndarray
    cpu_VS: np.ndarray
    process_VS: np.ndarray
    startup_VS: np.ndarray

    @property
    def first(self) -> np.ndarray:
        """Whether a visit is its process's first at the stage, [V, S]: what it imports then is no other's."""
        found = np.zeros(self.start_VS.shape, bool)
        for place in range(len(STAGES)):
            for process in np.unique(self.process_VS[:, place]):
                own = np.flatnonzero(self.process_VS[:, place] == process)
                found[own[np.argmin(self.start_VS[own, place])], place] = True
        return found

    def starting(self, place: int, servers: int) -> np.ndarray:
        """Whether a visit is the first of one of the stage's first `servers` processes, [V].

        Processes that Ray starts later, in the place of idle ones that it ended, belong to the steady state.
        """
        first = np.flatnonzero(self.first[:, place])
        found = np.zeros(len(self.start_VS), bool)
        found[first[np.argsort(self.start_VS[first, place], kind="stable")[:servers]]] = True
        return found

    def at_once(self, place: int) -> int:
        """How many units a stage had under way at most."""
        return _at_once(self.start_VS[:, place], self.end_VS[:, place])

    def loading(self) -> list[tuple[float, float]]:
        """From when to when each process loaded its model: until its first unit came, or before."""
        spans = [
            (start - startup, start)
            for start, startup in zip(self.start_VS[self.first], self.startup_VS[self.first], strict=True)
            if startup > 0
        ]
        return sorted((max(0.0, first), last) for first, last in spans)

    def handovers(self, place: int, servers: int) -> np.ndarray:
        """Seconds from when a unit and one of the `servers` were there for it until it was taken.

        Those of the start are left out, and those at which units enough waited before the next stage:
        backpressure may have held these up. Without any, the shortest of all.
        """
        order = np.argsort(self.start_VS[:, place], kind="stable")
        start, end = self.start_VS[order, place], self.end_VS[order, place]
        there = self.end_VS[order, place - 1] if place else np.zeros(len(order))
        ends: list[float] = []
        gaps = np.zeros(len(order))
        for number in range(len(order)):
            free = heapq.heappop(ends) if len(ends) >= servers else 0.0
            gaps[number] = max(0.0, start[number] - max(there[number], free))
            heapq.heappush(ends, end[number])
        warm = ~self.starting(place, servers)[order]
        held = warm & (self._waiting_behind(place, start) <= _RAN_DRY)
        if held.any():
            return gaps[held]
        return np.array([gaps[warm].min() if warm.any() else 0.0])

    def _waiting_behind(self, place: int, at: np.ndarray) -> np.ndarray:
        """How many units were through with a stage and not yet in the next one, at some seconds."""
        if place + 1 == len(STAGES):
            return np.zeros(len(at))
        through = np.searchsorted(np.sort(self.end_VS[:, place]), at)
        gone = np.searchsorted(np.sort(self.start_VS[:, place + 1]), at)
        return through - gone


def timeline_of(footers: Sequence[Footer]) -> Timeline:
    """The timeline of units that one start of a job made. KeyError: a footer lacks something."""
    began = float(footers[0].attempt)
    units = sorted(footers, key=lambda footer: footer.end_time)
    visits = [[unit.stages[stage] for stage in STAGES] for unit in units]

    def array(name: str) -> np.ndarray:
        values = [[getattr(visit, name) for visit in row] for row in visits]
        if any(value is None for row in values for value in row):
            raise KeyError(name)
        return np.array(values, float)

    known: dict[tuple[str, int], int] = {}
    processes = [[known.setdefault(visit.process, len(known)) for visit in row] for row in visits]
    start, end = array("start") - began, array("end") - began
    # `read` takes its first sample before it looks at the clock
    samples = np.array([max(2, unit.samples) for unit in units])
    start[:, 0] -= (end[:, 0] - start[:, 0]) / (samples - 1)
    process = np.array(processes)
    return Timeline(start, end, _own_cpu(array("cpu_s"), start, end, process), process, array("startup_s"))


def _own_cpu(cpu: np.ndarray, start: np.ndarray, end: np.ndarray, process: np.ndarray) -> np.ndarray:
    """CPU seconds of a process counted once where it had several units of a stage under way."""
    own = cpu.copy()
    for place in range(len(STAGES)):
        for number in np.unique(process[:, place]):
            of_it = process[:, place] == number
            begins, ends = start[of_it, place], end[of_it, place]
            if _at_once(begins, ends) > 1:
                own[of_it, place] *= _covered(begins, ends) / (ends - begins).sum()
    return own


def _at_once(start: np.ndarray, end: np.ndarray) -> int:
    """The largest number of spans that hold one instant; those that touch do not."""
    times = np.concatenate([end, start])
    steps = np.concatenate([-np.ones(len(end)), np.ones(len(start))])
    return max(1, int(np.cumsum(steps[np.argsort(times, kind="stable")]).max()))


def _covered(start: np.ndarray, end: np.ndarray) -> float:
    """Seconds that at least one span holds."""
    order = np.argsort(start)
    reached = np.maximum.accumulate(end[order])
    before = np.concatenate([[-np.inf], reached[:-1]])
    return float(np.maximum(0.0, end[order] - np.maximum(start[order], before)).sum())
