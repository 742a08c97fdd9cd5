"""Forecasts the whole job for several numbers of GPUs: hours, money, and what binds."""

import math
from dataclasses import dataclass, replace
from typing import Any

from pipeline.compare.cost import Pricing
from pipeline.planner import station_costs as costs
from pipeline.planner.fleet import WORKERS, FleetRun, Pool, Rates, simulate_fleet
from pipeline.planner.fleet_options import FleetOptions
from pipeline.planner.fleet_price import Prices, StoreRequests, store_requests
from pipeline.planner.forecast import Simulator
from pipeline.planner.profile import Profile
from pipeline.planner.workload import Workload

CALM = 0.5  # a driver that is busy for less of its time holds nothing up

Json = dict[str, Any]  # JSON for users to read


@dataclass(frozen=True)
class FleetForecast:
    """Holds the forecast for one number of GPUs and of slices.

    Args:
        gpus: the fleet's, a multiple of a worker's.
        worker_bound: what binds within a worker.
        requests: to the store.
        money: None: the price of a GPU is not given.
        idle_hours: GPU hours that would be booked besides if all slices started at once, each listing the
            source.
        calm_slices: fewest slices whose drivers are busy for at most half of their time, or as many as there
            are workers.
        calm_unit: requests of a unit with which this run's drivers would be so.
        actors: of the largest slice.
    """

    gpus: int
    worker_bound: str
    run: FleetRun
    requests: StoreRequests
    money: float | None
    idle_hours: float
    calm_slices: int
    calm_unit: int
    actors: float

    @property
    def hours(self) -> float:
        """The hours from the begin of the listing to the end of `finish`."""
        return self.run.seconds / 3600

    @property
    def label(self) -> str:
        """Name GPUs and slices for people."""
        return f"{self.gpus:,} GPUs in {self.run.slices} slice{'s' * (self.run.slices > 1)}"

    @property
    def bound(self) -> str:
        """The station that works for most of the job's time; of workers, what binds within them."""
        return self.worker_bound if self.run.bound == WORKERS else self.run.bound

    @property
    def gpu_hours(self) -> float:
        """The hours for which GPUs are booked, summed over GPUs."""
        return self.run.booked / 3600

    def to_json(self) -> Json:
        """Convert the forecast to JSON."""
        run = self.run
        return {
            "gpus": self.gpus,
            "slices": run.slices,
            "hours": self.hours,
            "gpu_hours": self.gpu_hours,
            "money": self.money,
            "bound": self.bound,
            "share": run.share,
            "driver_unit_s": run.driver_unit_s,
            "driver_actors": self.actors,
            "driver_busy": run.driver_busy,
            "span_hours": {name: seconds / 3600 for name, seconds in run.spans.items()},
            "busy_hours": {name: seconds / 3600 for name, seconds in run.busy.items()},
            "store_requests": vars(self.requests),
            "gpu_hours_more_if_all_slices_list": self.idle_hours,
            "calm_slices": self.calm_slices,
            "calm_unit_requests": self.calm_unit,
        }


@dataclass(frozen=True)
class WholeJob:
    """Holds the forecasts of a whole job by the number of GPUs.

    Args:
        gpu_requests_per_s: of one GPU; `is_measured` says whether it comes from the profile.
        actors_a_gpu: processes with a model.
    """

    work: Workload
    forecasts: tuple[FleetForecast, ...]
    prices: Prices
    gpu_requests_per_s: float
    is_measured: bool
    start_s: float
    actors_a_gpu: float

    def to_json(self) -> Json:
        """Convert the forecasts to JSON, with the figures that they rest on."""
        return {
            "workload": vars(self.work) | {"requests_per_unit": self.work.requests_per_unit},
            "gpu": {
                "requests_per_s": self.gpu_requests_per_s,
                "from_profile": self.is_measured,
                "start_s": self.start_s,
                "actors": self.actors_a_gpu,
            },
            "prices": vars(self.prices),
            "station_costs": {name: vars(cost) for name, cost in costs.known_costs().items()},
            "fleets": [forecast.to_json() for forecast in self.forecasts],
        }


def forecast_whole_job(
    options: FleetOptions,
    driver_unit_s: float | None,
    work: Workload,
    simulator: Simulator,
    pricing: Pricing | None,
) -> WholeJob:
    """Forecast each number of GPUs: without slices, and with as many as are given or advisable.

    Args:
        driver_unit_s: CPU seconds of the driver for a unit; None: as measured, by its actors.
    """
    profile = simulator.profile
    rates = Rates(driver_unit_s=driver_unit_s, get_s=1 / costs.GETS_S.value / options.source_prefixes)
    prices = Prices.of(options, pricing, profile.gpus)
    forecasts, pool = [], None
    for gpus in options.gpus:
        workers = math.ceil(gpus / _worker_gpus(options, profile))
        pool = _pool(options, work, simulator, workers)
        calm = calm_slices(pool, workers, rates)
        for slices in sorted({1, options.slices or calm}):
            run = simulate_fleet(work, pool, workers, slices, rates)
            requests = store_requests(work, slices)
            forecasts.append(
                FleetForecast(
                    gpus=round(workers * pool.gpus),
                    worker_bound=pool.name,
                    run=run,
                    requests=requests,
                    money=prices.money(run.booked / 3600, requests),
                    idle_hours=_idle_hours(run, pool),
                    calm_slices=calm,
                    calm_unit=math.ceil(work.requests_per_unit * max(1.0, run.driver_load / CALM)),
                    actors=pool.actors * math.ceil(workers / min(slices, workers)),
                )
            )
    assert pool is not None, "gpus is not empty"
    per_s = work.requests_per_unit / pool.unit_s / pool.gpus
    is_measured = _is_measured(options, profile)
    actors = pool.actors / pool.gpus
    return WholeJob(work, tuple(forecasts), prices, per_s, is_measured, pool.ready_s, actors)


def calm_slices(pool: Pool, workers: int, rates: Rates) -> int:
    """Return the fewest slices whose drivers are all busy for at most half of their time."""
    for slices in range(1, workers):
        most = math.ceil(workers / slices)
        if most / pool.unit_s * rates.driver(pool.actors * most) <= CALM:
            return slices
    return workers


def _idle_hours(run: FleetRun, pool: Pool) -> float:
    """Compute the GPU hours of the other slices if they did not wait for the first one's plan."""
    clusters = min(run.slices, run.workers)
    others = run.workers - math.ceil(run.workers / clusters)
    return others * pool.gpus * (run.spans["listing"] + run.spans["plan"]) / 3600


def _is_measured(options: FleetOptions, profile: Profile) -> bool:
    return options.gpu_requests_per_s is None and profile.gpus > 0


def _worker_gpus(options: FleetOptions, profile: Profile) -> int:
    return profile.gpus if _is_measured(options, profile) else 1


def _pool(options: FleetOptions, work: Workload, simulator: Simulator, workers: int) -> Pool:
    """Describe a worker: the profile's if it has GPUs, else one GPU of the rate that is given or assumed."""
    profile = simulator.profile
    if not _is_measured(options, profile):
        per_s = options.gpu_requests_per_s or costs.GPU_REQUESTS_S.value
        start = costs.GPU_START_S.value if options.start_s is None else options.start_s
        actors = costs.ACTORS_A_GPU.value
        return Pool("GPUs", 1, actors, work.requests_per_unit / per_s, start, start)
    alone = replace(simulator, driver_unit_s=0.0, resamples=0)
    forecast = alone.forecast(work.requests, workers)
    rate = forecast.worker_units_per_s
    units = math.ceil(math.ceil(work.requests / profile.requests_per_unit) / workers)
    ready = alone.started_s if options.start_s is None else options.start_s
    offset = forecast.hours["value"] * 3600 - units / rate - alone.started_s + ready
    actors = sum(stage.num_actors or 1 for stage in (profile.cluster.encode, profile.cluster.generate))
    unit_s = work.requests_per_unit / profile.requests_per_unit / rate
    name = max((name for name in forecast.busy if name != "driver"), key=lambda name: forecast.busy[name])
    return Pool(name, profile.gpus, actors, unit_s, ready, offset)
