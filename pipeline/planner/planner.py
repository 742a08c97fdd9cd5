"""Forecasts a larger job from a profile, for each number of workers."""

import math
import os
from dataclasses import asdict, dataclass
from typing import Any

from pipeline.compare.cost import Pricing
from pipeline.planner.fleet_forecast import WholeJob, forecast_whole_job
from pipeline.planner.fleet_options import FleetOptions
from pipeline.planner.forecast import Forecast, Simulator, with_room
from pipeline.planner.profile import Profile, read_profile
from pipeline.planner.station_costs import DRIVER_UNIT_S
from pipeline.planner.timeline import STAGES
from pipeline.planner.traffic import Traffic, moved_bytes, traffic_of
from pipeline.planner.workload import workload_of
from pipeline.storage.uris import Storage
from pipeline.support.fields import free, require

_MOST_ROOM = 256  # units; more of them waiting do not change the rate
# By default Ray takes 30 % of a machine's memory for its object store, and Ray Data lets its stages use half
# of that (`ResourceManager.DEFAULT_OBJECT_STORE_MEMORY_LIMIT_FRACTION`).
_OF_STORE, _OF_MEMORY = 0.5, 0.3

Json = dict[str, Any]  # JSON for users to read


@dataclass(frozen=True, kw_only=True)
class Planning(FleetOptions):
    """Configures `trimline benchmark plan`.

    Args:
        driver_unit_s: CPU seconds of the driver for a unit; None: as measured, with few actors for `workers`,
            and with as many as there are for `gpus`.
    """

    requests: float | None = free(None)
    profile: str = free("output")
    workers: list[int] = free(default_factory=lambda: [1, 2, 4, 8, 16, 32, 64])
    driver_unit_s: float | None = free(None)
    resamples: int = free(20)
    most_units: int = free(1000)
    seed: int = free(0)
    json: str | None = free(None)
    validate: list[int] = free(default_factory=list)
    validate_profile: int = free(300)
    validate_with: list[str] = free(default_factory=list)

    def __post_init__(self) -> None:
        super().__post_init__()
        requests = self.requests
        require(requests is not None or bool(self.validate), "requests must be given, as in requests=1e9")
        require(
            requests is None or (math.isfinite(requests) and requests >= 1 and requests == int(requests)),
            f"requests: {requests} is no whole number of at least 1",
        )
        require(bool(self.workers), "workers must not be empty: [1, 8, 64]")
        require(min(self.workers) >= 1, "workers must be at least 1 each")
        require(0 <= self.few_actors_s < math.inf, "driver_unit_s must not be negative")
        require(self.resamples >= 1, "resamples must be at least 1")
        require(self.most_units >= 100, "most_units must be at least 100: a steady state needs some")
        require(all(number >= 1 for number in self.validate), "validate must be at least 1 each")
        require(self.validate_profile >= 64, "validate_profile must be at least 64: four units")

    @property
    def few_actors_s(self) -> float:
        """CPU seconds of the driver for a unit, with few actors."""
        return DRIVER_UNIT_S[0][1] if self.driver_unit_s is None else self.driver_unit_s


@dataclass(frozen=True)
class JobForecast:
    """Holds forecasts by the number of workers, the figures that do not depend on it, and the whole job."""

    requests: int
    profile: Profile
    driver_unit_s: float
    forecasts: tuple[Forecast, ...]
    traffic: Traffic
    pricing: Pricing | None
    whole: WholeJob | None = None

    def money(self, forecast: Forecast) -> float | None:
        """Compute the price of all workers for the whole job."""
        if self.pricing is None:
            return None
        return forecast.hours["value"] * forecast.workers * self.pricing.price_per_hour

    @property
    def startup_s(self) -> float:
        """Seconds from the job's start until every stage had a server up."""
        return max(min(station.ready) for station in self.profile.worker.stations)

    def to_json(self) -> Json:
        """Convert the forecast to JSON."""
        profile, worker = self.profile, self.profile.worker
        return {
            "requests": self.requests,
            "profile": {
                "units": len(profile.footers),
                "requests": int(profile.requests_V.sum()),
                "requests_per_unit": profile.requests_per_unit,
                "seconds": profile.seconds,
                "cores": worker.cores,
                "gpus": profile.gpus,
                "stations": {
                    station.name: {
                        "servers": len(station.ready),
                        "ready_s": station.ready,
                        "cores": station.demand,
                        "gpus": station.gpu_demand,
                        "unit_s": float(profile.alone_VS[:, place].mean()),
                        "handover_s": float(profile.handover[place].mean()),
                    }
                    for place, station in enumerate(worker.stations)
                },
            },
            "startup_s": self.startup_s,
            "driver_unit_s": self.driver_unit_s,
            "workers": [{**asdict(forecast), "money": self.money(forecast)} for forecast in self.forecasts],
            "traffic": asdict(self.traffic),
            "pricing": None if self.pricing is None else vars(self.pricing),
            **({} if self.whole is None else {"whole_job": self.whole.to_json()}),
        }


def forecast_job(options: Planning, storage: Storage, pricing: Pricing | None) -> JobForecast:
    """Forecast a job whose units are like those of the profile.

    Raises:
        ConfigError: there is no such profile, or it lacks a figure.
    """
    assert options.requests is not None
    requests, folder = int(options.requests), options.profile.rstrip("/")
    profile = read_profile(folder, storage)
    simulator = simulator_of(profile, options)
    traffic = traffic_of(profile, folder, storage, requests)
    whole = None
    if options.gpus:
        work = workload_of(options, requests, profile, traffic)
        whole = forecast_whole_job(options, options.driver_unit_s, work, simulator, pricing)
    return JobForecast(
        requests=requests,
        profile=profile,
        driver_unit_s=options.few_actors_s,
        forecasts=tuple(simulator.forecast(requests, number) for number in options.workers),
        traffic=traffic,
        pricing=pricing,
        whole=whole,
    )


def simulator_of(profile: Profile, options: Planning) -> Simulator:
    """Make the simulator of a profile's worker."""
    return Simulator(
        with_room(profile.worker, _room(profile)),
        profile,
        options.few_actors_s,
        resamples=options.resamples,
        most_units=options.most_units,
        seed=options.seed,
    )


def _room(profile: Profile) -> list[int]:
    """Compute how many units fit into each stage's share of the object store."""
    store = profile.cluster.object_store_bytes
    if store is None:
        store = int(_OF_MEMORY * os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    share = _OF_STORE * store / len(STAGES)
    moved = moved_bytes(profile.footers, profile.manifest)
    sizes = [(moved.get(stage) or 0.0) / len(profile.footers) for stage in STAGES]
    return [_MOST_ROOM if not size else max(2, min(_MOST_ROOM, int(share / size))) for size in sizes]
