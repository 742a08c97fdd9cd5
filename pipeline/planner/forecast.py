"""Forecasts the hours of a job: simulates workers on units that are drawn from a profile.

A unit's seconds at all stages are drawn together, since a unit that is slow in one stage is slow in others.
Each resample draws its units from a bootstrap sample of the profile's units (Efron, 1979). Units beyond those
simulated are added at the rate of the steady state. Each worker takes an equal part of the units; one driver
serves them all.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from pipeline.planner.profile import Profile
from pipeline.planner.simulate import Simulated, Worker, simulate
from pipeline.planner.timeline import ACTORS, STAGES
from pipeline.support.intervals import Interval, interval

_QUICK = 0.1  # quantile of a stage's hand-overs that stands for a task with a process ready


@dataclass(frozen=True)
class Forecast:
    """Holds the forecast for one number of workers.

    Args:
        hours: value, low, high (95 %), from the job's start to the last unit's end.
        bound: the bottleneck: the name of a stage, `cores`, `gpus`, `driver`, or `start-up`.
        busy: the busy share of each stage's servers, cores and GPUs in the steady state, and of the driver.
        worker_units_per_s: of one worker in the steady state, without the driver's limit.
    """

    workers: int
    hours: Interval
    requests_per_s: float
    bound: str
    busy: dict[str, float]
    worker_units_per_s: float


@dataclass(frozen=True)
class Simulator:
    """Simulates workers like `worker` on units drawn from the profile.

    Args:
        driver_unit_s: CPU seconds of the driver for each unit of any worker.
        resamples, most_units, seed: of the simulation.
    """

    worker: Worker
    profile: Profile
    driver_unit_s: float
    resamples: int = 20
    most_units: int = 1000
    seed: int = 0

    def forecast(self, requests: int, workers: int) -> Forecast:
        """Forecast a job of so many requests on so many workers."""
        units = math.ceil(requests / self.profile.requests_per_unit)
        worker_units = math.ceil(units / workers)
        rng = np.random.default_rng(self.seed)
        runs = [
            self._simulate(rng, min(worker_units, self.most_units), bootstrap=bool(resample))
            for resample in range(self.resamples + 1)
        ]
        seconds = np.array([_extended(run, worker_units) for run in runs])
        driver_s = self.started_s + units * self.driver_unit_s
        typical = float(np.median(seconds))
        busy = runs[0].busy | {"driver": min(1.0, units * self.driver_unit_s / typical)}
        hours = interval(np.maximum([typical, *seconds], driver_s) / 3600)
        assert hours is not None
        return Forecast(
            workers=workers,
            hours=hours,
            requests_per_s=requests / hours["value"] / 3600,
            bound=self._bound(busy, typical, driver_s),
            busy=busy,
            worker_units_per_s=runs[0].units_per_s,
        )

    @property
    def started_s(self) -> float:
        """Seconds until every stage has a server up."""
        return max(min(station.ready) for station in self.worker.stations)

    def _bound(self, busy: dict[str, float], seconds: float, driver_s: float) -> str:
        if driver_s >= seconds:
            return "driver"
        if self.started_s > seconds / 2:
            return "start-up"
        return max((name for name in busy if name != "driver"), key=lambda name: busy[name])

    def _simulate(self, rng: np.random.Generator, units: int, *, bootstrap: bool) -> Simulated:
        """Simulate a worker on units of the profile, or of a bootstrap sample of it."""
        profile = self.profile
        pool = np.flatnonzero(profile.warm_V)
        if not len(pool):
            pool = np.arange(len(profile.warm_V))
        if bootstrap:
            pool = rng.choice(pool, len(pool))
        drawn = rng.choice(pool, units)
        gaps = np.column_stack([rng.choice(seconds, units) for seconds in profile.handover])
        handover = np.minimum(
            gaps, [_blocking(stage, seconds) for stage, seconds in zip(STAGES, profile.handover, strict=True)]
        )
        return simulate(self.worker, profile.alone_VS[drawn], handover, gaps - handover)


def _blocking(stage: str, gaps: NDArray[np.float64]) -> float:
    """Compute the most seconds that a hand-over blocks a server.

    An actor is blocked all the time that it waits for its unit. A task that must start a process first delays
    its own unit alone, so only the time of a quick hand-over blocks.
    """
    return float("inf") if stage in ACTORS else float(np.quantile(gaps, _QUICK))


def _extended(run: Simulated, units: int) -> float:
    """Extend the simulated seconds to more units, at the rate of the steady state."""
    return run.seconds + (units - len(run.ended)) / run.units_per_s


def with_room(worker: Worker, room: Sequence[int]) -> Worker:
    """Copy a worker with limits on how many units its stations hold."""
    stations = tuple(
        replace(station, room=max(1, number)) for station, number in zip(worker.stations, room, strict=True)
    )
    return replace(worker, stations=stations)
