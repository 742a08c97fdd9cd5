"""From a profile to hours: units drawn from it are let pass through simulated workers.

A unit's seconds at all stages are drawn together, since a unit that is long for one is long for others.
Each of the resamples draws its units from a bootstrap of the profile's (Efron, 1979). Where a worker's part
is more units than are simulated, it goes on at the steady state's rate. W workers take a part each; the
driver hands out the units of all.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from pipeline.planner.profile import Profile
from pipeline.planner.simulate import Simulated, Worker, simulate
from pipeline.planner.timeline import ACTORS, STAGES
from pipeline.support.intervals import interval

_QUICK = 0.1  # the part of a stage's tasks whose hand-overs tell what the quick ones take


@dataclass(frozen=True)
class Forecast:
    """What a number of workers make of a job.

    Args:
        hours: value, low, high (95 %), from the job's start to the last unit's end.
        bound: what binds: a stage's servers, the `cores`, the `driver`, or the `start-up`.
        busy: how large a part of each stage's servers and of the cores was busy in the steady state.
        worker_units_per_s: in the steady state of one of them, whatever the driver does.
    """

    workers: int
    hours: dict[str, float]
    requests_per_s: float
    bound: str
    busy: dict[str, float]
    worker_units_per_s: float


@dataclass(frozen=True)
class Plant:
    """What is simulated: workers like `worker`, of whose units those of the profile are drawn.

    Args:
        driver_unit_s: seconds of the driver for each unit, whichever worker has it.
        resamples, most_units, seed: of the simulation.
    """

    worker: Worker
    profile: Profile
    driver_unit_s: float
    resamples: int = 20
    most_units: int = 1000
    seed: int = 0

    def forecast(self, requests: int, workers: int) -> Forecast:
        """The job of so many requests on so many workers."""
        units = math.ceil(requests / self.profile.requests_per_unit)
        own = math.ceil(units / workers)
        rng = np.random.default_rng(self.seed)
        runs = [
            self._simulated(rng, min(own, self.most_units), whole=not n) for n in range(self.resamples + 1)
        ]
        seconds = np.array([_extended(run, own) for run in runs])
        driver_s = self._started + units * self.driver_unit_s
        usual = float(np.median(seconds))
        busy = runs[0].busy | {"driver": min(1.0, units * self.driver_unit_s / usual)}
        hours = interval(np.maximum([usual, *seconds], driver_s) / 3600)
        assert hours is not None
        return Forecast(
            workers=workers,
            hours=hours,
            requests_per_s=requests / hours["value"] / 3600,
            bound=self._bound(busy, usual, driver_s),
            busy=busy,
            worker_units_per_s=runs[0].units_per_s,
        )

    @property
    def _started(self) -> float:
        return max(min(station.ready) for station in self.worker.stations)

    def _bound(self, busy: dict[str, float], seconds: float, driver_s: float) -> str:
        if driver_s >= seconds:
            return "driver"
        if self._started > seconds / 2:
            return "start-up"
        return max((name for name in busy if name != "driver"), key=lambda name: busy[name])

    def _simulated(self, rng: np.random.Generator, units: int, *, whole: bool) -> Simulated:
        """A worker with units of the `whole` profile, or of a bootstrap of it."""
        profile = self.profile
        pool = np.flatnonzero(profile.warm_V)
        if not len(pool):
            pool = np.arange(len(profile.warm_V))
        if not whole:
            pool = rng.choice(pool, len(pool))
        drawn = rng.choice(pool, units)
        gaps = np.column_stack([rng.choice(found, units) for found in profile.handover])
        handover = np.minimum(
            gaps, [_of_server(*both) for both in zip(STAGES, profile.handover, strict=True)]
        )
        return simulate(self.worker, profile.alone_VS[drawn], handover, gaps - handover)


def _of_server(stage: str, gaps: np.ndarray) -> float:
    """The most seconds of a hand-over that keep a server: an actor waits for its unit.

    A task is started whenever a process is there for it: one that has to be started first holds up nothing
    but its own unit.
    """
    return float("inf") if stage in ACTORS else float(np.quantile(gaps, _QUICK))


def _extended(run: Simulated, units: int) -> float:
    """The seconds of more units than were simulated: at the steady state's rate."""
    return run.seconds + (units - len(run.ended)) / run.units_per_s


def with_room(worker: Worker, room: Sequence[int]) -> Worker:
    """A worker whose stations hold no more units than that."""
    stations = tuple(
        replace(station, room=max(1, number)) for station, number in zip(worker.stations, room, strict=True)
    )
    return replace(worker, stations=stations)
