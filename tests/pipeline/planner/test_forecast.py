"""Forecasts from simple profiles agree with figures computed by hand."""

import math

import numpy as np
import pytest

from pipeline.output.manifest import Manifest
from pipeline.planner.forecast import Simulator
from pipeline.planner.profile import Profile
from pipeline.planner.simulate import Station, Worker
from pipeline.run.cluster.resources import Cluster

READY_S, UNIT, REQUESTS = 20.0, 10, 4
NAMES = ("read", "decode", "encode", "generate", "write")


def plant(
    *seconds: float, driver_unit_s: float = 0.0, spread: float = 0.0, generators: int = 1, **more
) -> Simulator:
    """Make a simulator whose stations take these seconds a unit; `generate` is ready after 20 s."""
    ready = [(READY_S,) * generators if name == "generate" else (0.0,) for name in NAMES]
    worker = Worker(tuple(Station(name, up) for name, up in zip(NAMES, ready, strict=True)))
    alone = np.tile(np.array(seconds), (UNIT, 1))
    alone[:, 3] *= np.linspace(1 - spread, 1 + spread, UNIT)
    profile = Profile(
        worker=worker,
        requests_V=np.full(UNIT, float(REQUESTS)),
        alone_VS=alone,
        handover=(np.zeros(1),) * 5,
        warm_V=np.arange(UNIT) > 0,
        seconds=100.0,
        gpus=0,
        manifest=Manifest("run", "fp", 1, {}, {}, {}),
        cluster=Cluster(address="elsewhere"),
        footers=(),
        everything=(),
    )
    return Simulator(worker, profile, driver_unit_s, most_units=200, **more)


def seconds_of(forecast) -> float:
    return forecast.hours["value"] * 3600


@pytest.mark.parametrize("workers", [1, 7, 50])
@pytest.mark.parametrize("requests", [400, 10**9])
def test_hours_are_start_and_units_at_the_slowest_stages_rate(requests, workers):
    forecast = plant(0.1, 0.2, 0.5, 2.0, 0.1).forecast(requests, workers)
    units = math.ceil(math.ceil(requests / REQUESTS) / workers)
    # units wait for the model; after the last one only its write remains
    assert seconds_of(forecast) == pytest.approx(READY_S + units * 2.0 + 0.1, rel=1e-6)
    assert forecast.bound == ("generate" if units * 2.0 > READY_S else "start-up")
    assert forecast.hours["low"] == forecast.hours["high"] == forecast.hours["value"], "all units are alike"


def test_the_bound_is_the_busiest_stage():
    assert plant(0.1, 3.0, 0.5, 2.0, 0.1).forecast(10**6, 1).bound == "decode"
    assert plant(0.1, 0.3, 0.5, 2.0, 0.1, generators=8).forecast(10**6, 1).bound == "encode"


def test_the_driver_hands_out_the_units_of_all_workers():
    """A unit takes 2 s and 10 ms of the driver, so beyond 200 workers the driver is the bound."""
    simulator = plant(0.1, 0.2, 0.5, 2.0, 0.1, driver_unit_s=0.01)
    few, many, more = (simulator.forecast(10**8, workers) for workers in (100, 400, 800))
    assert (few.bound, many.bound, more.bound) == ("generate", "driver", "driver")
    assert seconds_of(many) == seconds_of(more) == pytest.approx(READY_S + 10**8 / REQUESTS * 0.01)
    assert few.busy["driver"] == pytest.approx(0.5, rel=0.01)


def test_the_interval_widens_with_the_spread_of_unit_times():
    alike, other = (plant(0.1, 0.2, 0.5, 2.0, 0.1, spread=spread).forecast(10**6, 1) for spread in (0, 0.8))
    assert alike.hours["low"] == alike.hours["high"]
    assert 1.1 < other.hours["high"] / other.hours["low"] < 2
    assert other.hours["low"] < alike.hours["value"] < other.hours["high"]


def test_a_forecast_is_the_same_every_time():
    simulator = plant(0.1, 0.2, 0.5, 2.0, 0.1, spread=0.5)
    assert simulator.forecast(10**5, 3) == simulator.forecast(10**5, 3)
