"""The stages as stations in a row: a discrete-event simulation of one worker.

A worker is the hardware and the actors on which the profile was measured. Each station has servers (actors,
times the units that one has under way; or task slots). A server that is free takes the next unit, is handed
it for some seconds, and works on it for what it takes alone, in which it keeps `demand` cores busy. When all
stations together want more cores than there are, everybody's work goes on slower by the same factor, as
under a fair scheduler (processor sharing). A station does not begin a unit while `room` others are in it or
wait behind it: Ray Data's backpressure.

N units, S stations.
"""

import heapq
from collections import deque
from dataclasses import dataclass, field

import numpy as np

# The steady state lies between the ends of these parts of the units: fill and drain are outside.
STEADY = (0.4, 0.9)
_LOADS, _UP, _GOES, _COMES = range(4)


@dataclass(frozen=True)
class Station:
    """One stage.

    Args:
        ready: for each server the second from which it is up.
        demand: cores that a server keeps busy while it works, if it gets them.
        room: units that may be in it, or be through with it and wait for the next station.
    """

    name: str
    ready: tuple[float, ...]
    demand: float = 0.0
    room: int = 1 << 30


@dataclass(frozen=True)
class Worker:
    """Stations in a row on so many cores; `loading`: from when to when each model's loading takes a core."""

    stations: tuple[Station, ...]
    cores: float = float("inf")
    loading: tuple[tuple[float, float], ...] = ()


@dataclass(frozen=True)
class Simulated:
    """What became of N units.

    Args:
        begun, ended: [N, S] seconds at which the work on a unit began and ended at a station.
        steady: the first and the last second of the steady state.
        busy: how large a part of its servers each station kept busy in the steady state, and of the cores.
    """

    begun: np.ndarray
    ended: np.ndarray
    steady: tuple[float, float]
    busy: dict[str, float]

    @property
    def seconds(self) -> float:
        """From the start to the end of the last unit."""
        return float(self.ended.max())

    @property
    def units_per_s(self) -> float:
        """In the steady state; all units over all seconds where there are too few for one."""
        first, last = self.steady
        if last <= first:
            return len(self.ended) / self.seconds
        ends = self.ended[:, -1]
        return float(np.count_nonzero((first < ends) & (ends <= last))) / (last - first)


@dataclass
class _Clock:
    """Real seconds, and those that work has advanced by: the same unless cores are short."""

    cores: float
    now: float = 0.0
    worked: float = 0.0
    demand: float = 0.0

    @property
    def rate(self) -> float:
        return min(1.0, self.cores / self.demand) if self.demand > 0 else 1.0

    def advance(self, to: float) -> None:
        self.worked += (to - self.now) * self.rate
        self.now = to


@dataclass
class _State:
    """Stations while units pass: what is free, in work and waiting, and the areas under them so far."""

    free: list[int]
    inside: list[int]
    waiting: list[deque[int]]
    busy_s: list[float] = field(init=False)

    def __post_init__(self) -> None:
        self.busy_s = [0.0] * (len(self.free) + 1)


def simulate(
    worker: Worker, alone_NS: np.ndarray, handover_NS: np.ndarray, delay_NS: np.ndarray | None = None
) -> Simulated:
    """Let N units pass, in their order.

    Args:
        alone_NS: [N, S] seconds that each takes at each station with all the cores that it wants.
        handover_NS: [N, S] seconds before that in which a server has the unit and no work is done.
        delay_NS: [N, S] seconds on the way to a station, which keep none of its servers; null: none.
    """
    delay_NS = np.zeros(alone_NS.shape) if delay_NS is None else delay_NS
    return _Simulation(worker, alone_NS, handover_NS, delay_NS).run()


class _Simulation:
    """The events of one simulation: timers in real seconds, ends of work in seconds of the shared cores."""

    def __init__(
        self, worker: Worker, alone_NS: np.ndarray, handover_NS: np.ndarray, delay_NS: np.ndarray
    ) -> None:
        self._stations, self._count = worker.stations, len(alone_NS)
        self._alone, self._handover = alone_NS.tolist(), handover_NS.tolist()
        self._delay = np.column_stack([delay_NS, np.zeros(len(delay_NS))]).tolist()
        stations = len(worker.stations)
        self._clock = _Clock(worker.cores)
        self._state = _State([0] * stations, [0] * stations, [deque() for _ in range(stations + 1)])
        self._begun, self._ended = np.zeros((2, self._count, stations))
        self._timers: list[tuple[float, int, int, int]] = []
        self._work: list[tuple[float, int, int]] = []
        for unit in range(self._count):
            self._arrive(0, unit)
        for place, station in enumerate(worker.stations):
            for ready in station.ready:
                heapq.heappush(self._timers, (ready, _UP, place, 0))
        for first, last in worker.loading:
            heapq.heappush(self._timers, (first, _LOADS, 1, 0))
            heapq.heappush(self._timers, (last, _LOADS, -1, 0))

    def run(self) -> Simulated:
        marks = [max(1, int(part * self._count)) for part in STEADY]
        seen: list[tuple[float, np.ndarray]] = []
        while len(self._state.waiting[-1]) < self._count:
            self._step()
            while len(seen) < len(marks) and len(self._state.waiting[-1]) >= marks[len(seen)]:
                seen.append((self._clock.now, np.array(self._state.busy_s)))
        (first, before), (last, after) = seen
        names = [*(station.name for station in self._stations), "cores"]
        servers = np.array([*(len(station.ready) for station in self._stations), self._clock.cores])
        parts = (after - before) / servers / (last - first) if last > first else np.zeros(len(names))
        return Simulated(
            self._begun, self._ended, (first, last), dict(zip(names, map(float, parts), strict=True))
        )

    def _step(self) -> None:
        """To the next event, and what follows from it."""
        clock = self._clock
        timer = self._timers[0][0] if self._timers else float("inf")
        work = clock.now + (self._work[0][0] - clock.worked) / clock.rate if self._work else float("inf")
        self._pass_time(min(timer, work))
        if work <= timer:
            _, place, unit = heapq.heappop(self._work)
            self._end(place, unit)
        else:
            _, kind, place, unit = heapq.heappop(self._timers)
            if kind == _LOADS:
                clock.demand += place
            elif kind == _UP:
                self._state.free[place] += 1
            elif kind == _COMES:
                self._state.waiting[place].append(unit)
            else:
                self._begin(place, unit)
        self._hand_out()

    def _pass_time(self, to: float) -> None:
        state, clock = self._state, self._clock
        span = to - clock.now
        if span > 0:
            for place, inside in enumerate(state.inside):
                state.busy_s[place] += inside * span
            state.busy_s[-1] += min(clock.demand, clock.cores) * span
        clock.advance(to)

    def _hand_out(self) -> None:
        """Give units to free servers, the last station first."""
        state = self._state
        for place in range(len(self._stations) - 1, -1, -1):
            room = self._stations[place].room
            while (
                state.free[place]
                and state.waiting[place]
                and state.inside[place] + (len(state.waiting[place + 1]) if self._is_held(place) else 0)
                < room
            ):
                unit = state.waiting[place].popleft()
                state.free[place] -= 1
                state.inside[place] += 1
                heapq.heappush(
                    self._timers, (self._clock.now + self._handover[unit][place], _GOES, place, unit)
                )

    def _is_held(self, place: int) -> bool:
        """Whether what is through with a station waits for another one."""
        return place + 1 < len(self._stations)

    def _begin(self, place: int, unit: int) -> None:
        clock = self._clock
        self._begun[unit, place] = clock.now
        clock.demand += self._stations[place].demand
        heapq.heappush(self._work, (clock.worked + self._alone[unit][place], place, unit))

    def _end(self, place: int, unit: int) -> None:
        state = self._state
        self._ended[unit, place] = self._clock.now
        self._clock.demand = max(0.0, self._clock.demand - self._stations[place].demand)
        state.free[place] += 1
        state.inside[place] -= 1
        self._arrive(place + 1, unit)

    def _arrive(self, place: int, unit: int) -> None:
        """At a station, or on the way there; after the last station there is none to go."""
        if delay := self._delay[unit][place]:
            heapq.heappush(self._timers, (self._clock.now + delay, _COMES, place, unit))
        else:
            self._state.waiting[place].append(unit)
