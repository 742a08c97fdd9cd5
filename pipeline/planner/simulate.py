"""Simulates one worker: a discrete-event simulation of the stages as stations in a row.

A worker is the hardware and the actors on which the profile was measured. Each station has servers: actors,
times the units that one actor works on at once, or task slots. A free server takes the next waiting unit.
First comes the hand-over, some seconds without work; then the work, which keeps `demand` cores busy. When all
work under way wants more cores than there are, all of it slows down by the same factor, as under a fair
scheduler (processor sharing); work on GPUs slows down likewise when it wants more GPUs than there are. A
station starts no unit while `room` units are in it or wait behind it: Ray Data's backpressure.

So there are three clocks. Hand-overs end at a time of the real clock (`_timers`). Work ends at a time of a
work clock (`_work`), which advances by `speed` x real seconds: one for work on GPUs, one for the rest.
`_step` takes whichever comes first, then gives waiting units to free servers.

N units, S stations.
"""

import heapq
from collections import deque
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

# The steady state lies between the ends of these shares of the units, without fill and drain.
STEADY = (0.4, 0.9)
# Kinds of timers: a model's loading begins or ends, a server is up, work begins, a unit arrives.
_LOADING, _SERVER_UP, _WORK_BEGINS, _UNIT_ARRIVES = range(4)


@dataclass(frozen=True)
class Station:
    """Describes one stage.

    Args:
        ready: for each server the second at which it is up.
        demand: cores that a server wants while it works.
        gpu_demand: GPUs that it wants.
        room: the most units that may be in the station or wait behind it for the next one.
    """

    name: str
    ready: tuple[float, ...]
    demand: float = 0.0
    room: int = 1 << 30
    gpu_demand: float = 0.0


@dataclass(frozen=True)
class Worker:
    """Holds stations in a row that share cores and GPUs (0: none is looked at).

    `loading`: start and end of each model's loading.
    """

    stations: tuple[Station, ...]
    cores: float = float("inf")
    loading: tuple[tuple[float, float], ...] = ()
    gpus: int = 0


@dataclass(frozen=True)
class Simulated:
    """Holds the simulated times of N units.

    Args:
        begun, ended: [N, S] seconds at which the work on a unit began and ended at a station.
        steady: the first and the last second of the steady state.
        busy: the busy share of each station's servers, of the cores and of the GPUs, in the steady state.
    """

    begun: NDArray[np.float64]
    ended: NDArray[np.float64]
    steady: tuple[float, float]
    busy: dict[str, float]

    @property
    def seconds(self) -> float:
        """The seconds from the start to the end of the last unit."""
        return float(self.ended.max())

    @property
    def units_per_s(self) -> float:
        """The rate in the steady state; of the whole simulation if there are too few units."""
        first, last = self.steady
        if last <= first:
            return len(self.ended) / self.seconds
        ends = self.ended[:, -1]
        return float(np.count_nonzero((first < ends) & (ends <= last))) / (last - first)


@dataclass
class _Clock:
    """Keeps the real clock (`now`) and the work clocks, which are slower while cores or GPUs are short.

    `worked` has the seconds of work without a GPU, and of work on one.
    """

    cores: float
    gpus: float
    now: float = 0.0
    worked: list[float] = field(default_factory=lambda: [0.0, 0.0])
    demand: float = 0.0
    gpu_demand: float = 0.0

    def speed(self, on_gpu: int) -> float:
        """Return the work seconds for each real second, at most 1."""
        speed = min(1.0, self.cores / self.demand) if self.demand > 0 else 1.0
        return min(speed, self.gpus / self.gpu_demand) if on_gpu and self.gpu_demand > 0 else speed

    def advance(self, to: float) -> None:
        """Move all clocks on; `to` is a time of the real clock."""
        for on_gpu in (0, 1):
            self.worked[on_gpu] += (to - self.now) * self.speed(on_gpu)
        self.now = to

    def take(self, station: Station, count: int) -> None:
        """Add what `count` servers of a station want; a negative count gives it back."""
        self.demand = max(0.0, self.demand + count * station.demand)
        self.gpu_demand = max(0.0, self.gpu_demand + count * station.gpu_demand)


@dataclass
class _State:
    """Holds the state of each station.

    Args:
        free: servers without a unit.
        inside: units in the station.
        waiting: units that wait before the station; the last queue has the finished ones.
        busy_s: server seconds so far; the last entries have core seconds and GPU seconds.
    """

    free: list[int]
    inside: list[int]
    waiting: list[deque[int]]
    busy_s: list[float] = field(init=False)

    def __post_init__(self) -> None:
        self.busy_s = [0.0] * (len(self.free) + 2)


def simulate(
    worker: Worker,
    alone_NS: NDArray[np.float64],
    handover_NS: NDArray[np.float64],
    delay_NS: NDArray[np.float64] | None = None,
) -> Simulated:
    """Simulate N units in their order.

    Args:
        alone_NS: [N, S] seconds of work at each station with all the cores that it wants.
        handover_NS: [N, S] seconds before the work during which the unit blocks a server.
        delay_NS: [N, S] seconds on the way to a station, which block no server; None: no delay.
    """
    delay_NS = np.zeros(alone_NS.shape) if delay_NS is None else delay_NS
    return _Simulation(worker, alone_NS, handover_NS, delay_NS).run()


class _Simulation:
    """Runs one simulation; see the module's text for its two clocks."""

    def __init__(
        self,
        worker: Worker,
        alone_NS: NDArray[np.float64],
        handover_NS: NDArray[np.float64],
        delay_NS: NDArray[np.float64],
    ) -> None:
        self._stations, self._count = worker.stations, len(alone_NS)
        self._alone, self._handover = alone_NS.tolist(), handover_NS.tolist()
        self._delay = np.column_stack([delay_NS, np.zeros(len(delay_NS))]).tolist()
        stations = len(worker.stations)
        self._clock = _Clock(worker.cores, worker.gpus or float("inf"))
        self._state = _State([0] * stations, [0] * stations, [deque() for _ in range(stations + 1)])
        self._begun, self._ended = np.zeros((2, self._count, stations))
        self._timers: list[tuple[float, int, int, int]] = []
        self._work: tuple[list[tuple[float, int, int]], ...] = ([], [])  # without a GPU, and on one
        for unit in range(self._count):
            self._arrive(0, unit)
        for place, station in enumerate(worker.stations):
            for ready in station.ready:
                heapq.heappush(self._timers, (ready, _SERVER_UP, place, 0))
        for first, last in worker.loading:
            heapq.heappush(self._timers, (first, _LOADING, 1, 0))
            heapq.heappush(self._timers, (last, _LOADING, -1, 0))

    def run(self) -> Simulated:
        """Simulate until the last unit is through."""
        marks = [max(1, int(part * self._count)) for part in STEADY]
        seen: list[tuple[float, NDArray[np.float64]]] = []
        while len(self._state.waiting[-1]) < self._count:
            self._step()
            while len(seen) < len(marks) and len(self._state.waiting[-1]) >= marks[len(seen)]:
                seen.append((self._clock.now, np.array(self._state.busy_s)))
        (first, before), (last, after) = seen
        names = [*(station.name for station in self._stations), "cores", "gpus"]
        capacity = (self._clock.cores, self._clock.gpus)
        servers = np.array([*(len(station.ready) for station in self._stations), *capacity])
        parts = (after - before) / servers / (last - first) if last > first else np.zeros(len(names))
        busy = dict(zip(names, map(float, parts), strict=True))
        if self._clock.gpus == float("inf"):
            del busy["gpus"]
        return Simulated(self._begun, self._ended, (first, last), busy)

    def _step(self) -> None:
        """Advance to the next event and handle it."""
        clock = self._clock
        timer = self._timers[0][0] if self._timers else float("inf")
        work, on_gpu = min(
            (clock.now + (self._work[kind][0][0] - clock.worked[kind]) / clock.speed(kind), kind)
            if self._work[kind]
            else (float("inf"), kind)
            for kind in (0, 1)
        )
        self._pass_time(min(timer, work))
        if work <= timer:
            _, place, unit = heapq.heappop(self._work[on_gpu])
            self._end(place, unit)
        else:
            _, kind, place, unit = heapq.heappop(self._timers)
            if kind == _LOADING:
                clock.demand += place
            elif kind == _SERVER_UP:
                self._state.free[place] += 1
            elif kind == _UNIT_ARRIVES:
                self._state.waiting[place].append(unit)
            else:
                self._begin(place, unit)
        self._hand_out()

    def _pass_time(self, to: float) -> None:
        """Advance the clocks and add up the busy seconds until then."""
        state, clock = self._state, self._clock
        span = to - clock.now
        if span > 0:
            for place, inside in enumerate(state.inside):
                state.busy_s[place] += inside * span
            state.busy_s[-2] += min(clock.demand, clock.cores) * span
            state.busy_s[-1] += min(clock.gpu_demand, clock.gpus) * span
        clock.advance(to)

    def _hand_out(self) -> None:
        """Give waiting units to free servers, the last station first."""
        state = self._state
        for place in range(len(self._stations) - 1, -1, -1):
            while state.free[place] and state.waiting[place] and self._has_room(place):
                unit = state.waiting[place].popleft()
                state.free[place] -= 1
                state.inside[place] += 1
                heapq.heappush(
                    self._timers, (self._clock.now + self._handover[unit][place], _WORK_BEGINS, place, unit)
                )

    def _has_room(self, place: int) -> bool:
        """Tell whether a station may start a unit; units behind the last station do not wait for anything."""
        is_last = place + 1 == len(self._stations)
        behind = 0 if is_last else len(self._state.waiting[place + 1])
        return self._state.inside[place] + behind < self._stations[place].room

    def _begin(self, place: int, unit: int) -> None:
        """Begin the work on a unit whose hand-over is done."""
        clock = self._clock
        self._begun[unit, place] = clock.now
        station = self._stations[place]
        clock.take(station, 1)
        on_gpu = int(station.gpu_demand > 0)
        heapq.heappush(self._work[on_gpu], (clock.worked[on_gpu] + self._alone[unit][place], place, unit))

    def _end(self, place: int, unit: int) -> None:
        """End the work on a unit and send it to the next station."""
        state = self._state
        self._ended[unit, place] = self._clock.now
        self._clock.take(self._stations[place], -1)
        state.free[place] += 1
        state.inside[place] -= 1
        self._arrive(place + 1, unit)

    def _arrive(self, place: int, unit: int) -> None:
        """Queue a unit before a station, after its delay; past the last station it is finished."""
        if delay := self._delay[unit][place]:
            heapq.heappush(self._timers, (self._clock.now + delay, _UNIT_ARRIVES, place, unit))
        else:
            self._state.waiting[place].append(unit)
