"""Forecasts of profiles whose units are all alike, against what can be computed by hand."""

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
    """Stations that take these seconds a unit of four requests; `generate` is up after 20 s."""
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
        gpus=0.0,
        manifest=Manifest("run", "fp", 1, {}, {}, {}),
        cluster=Cluster(address="elsewhere"),
        footers=(),
        everything=(),
    )
    return Simulator(worker, profile, driver_unit_s, most_units=200, **more)


def seconds_of(found) -> float:
    return found.hours["value"] * 3600


@pytest.mark.parametrize("workers", [1, 7, 50])
@pytest.mark.parametrize("requests", [400, 10**9])
def test_hours_are_start_and_units_at_the_slowest_stages_rate(requests, workers):
    found = plant(0.1, 0.2, 0.5, 2.0, 0.1).forecast(requests, workers)
    units = math.ceil(math.ceil(requests / REQUESTS) / workers)
    # units wait for the model; what comes after the last one is the write
    assert seconds_of(found) == pytest.approx(READY_S + units * 2.0 + 0.1, rel=1e-6)
    assert found.bound == ("generate" if units * 2.0 > READY_S else "start-up")
    assert found.hours["low"] == found.hours["high"] == found.hours["value"], "all units are alike"


def test_what_binds_is_the_busiest_stage():
    assert plant(0.1, 3.0, 0.5, 2.0, 0.1).forecast(10**6, 1).bound == "decode"
    assert plant(0.1, 0.3, 0.5, 2.0, 0.1, generators=8).forecast(10**6, 1).bound == "encode"


def test_the_driver_hands_out_the_units_of_all_workers():
    """2 s a unit and 10 ms of the driver: from 200 workers on it binds, and more of them are no faster."""
    made = plant(0.1, 0.2, 0.5, 2.0, 0.1, driver_unit_s=0.01)
    few, many, more = (made.forecast(10**8, workers) for workers in (100, 400, 800))
    assert (few.bound, many.bound, more.bound) == ("generate", "driver", "driver")
    assert seconds_of(many) == seconds_of(more) == pytest.approx(READY_S + 10**8 / REQUESTS * 0.01)
    assert few.busy["driver"] == pytest.approx(0.5, rel=0.01)


def test_the_interval_holds_what_units_of_other_lengths_make_of_it():
    alike, other = (plant(0.1, 0.2, 0.5, 2.0, 0.1, spread=spread).forecast(10**6, 1) for spread in (0, 0.8))
    assert alike.hours["low"] == alike.hours["high"]
    assert 1.1 < other.hours["high"] / other.hours["low"] < 2
    assert other.hours["low"] < alike.hours["value"] < other.hours["high"]


def test_a_forecast_is_the_same_every_time():
    made = plant(0.1, 0.2, 0.5, 2.0, 0.1, spread=0.5)
    assert made.forecast(10**5, 3) == made.forecast(10**5, 3)
