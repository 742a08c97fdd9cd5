"""Forecasts of whole jobs agree with those of their workers, and with the keys that are given."""

from dataclasses import replace

import pytest

from pipeline.planner.fleet_forecast import WholeJob, forecast_whole_job
from pipeline.planner.fleet_options import FleetOptions
from pipeline.planner.workload import Workload
from tests.pipeline.planner.test_forecast import READY_S, plant, seconds_of

REQUESTS, UNIT_REQUESTS = 10**8, 4


def job() -> Workload:
    """Make a job of tars with a thousand of the profile's units each."""
    units = REQUESTS // UNIT_REQUESTS
    return Workload(REQUESTS, float(REQUESTS), units, units // 1000, "tars", units // 1000, 0.0)


def simulator(gpus: int, **more):
    """Make a worker whose slowest stage takes 2 s for a unit; it has so many GPUs."""
    plain = plant(0.1, 0.2, 0.5, 2.0, 0.1, **more)
    return replace(plain, profile=replace(plain.profile, gpus=gpus))


def forecasts(worker_gpus: int = 8, driver_unit_s: float = 0.0, **options) -> WholeJob:
    return forecast_whole_job(FleetOptions(**options), driver_unit_s, job(), simulator(worker_gpus), None)


@pytest.mark.parametrize("slices", [1, 8])
def test_without_a_driver_the_units_take_the_time_of_their_workers(slices):
    """The two stages of the forecast, of a worker and of the whole job, have the same hours."""
    plain = simulator(8)
    whole = forecasts(gpus=[64], slices=slices)
    run = whole.forecasts[-1].run
    expected = seconds_of(plain.forecast(REQUESTS, 8))
    assert run.slices == slices
    assert run.spans["start"] + run.spans["units"] == pytest.approx(expected, rel=1e-4)
    assert run.busy["workers"] == pytest.approx(expected - READY_S, rel=1e-4)
    assert whole.forecasts[-1].bound == "generate" and whole.is_measured
    assert whole.gpu_requests_per_s == pytest.approx(UNIT_REQUESTS / 2.0 / 8, rel=0.01)


def test_gpus_are_those_of_whole_workers():
    whole = forecasts(gpus=[1, 8, 9])
    assert [(row.gpus, row.run.workers) for row in whole.forecasts] == [(8, 1), (8, 1), (16, 2)]


def test_a_given_rate_takes_the_place_of_the_profile():
    whole = forecasts(gpus=[4], gpu_requests_per_s=50, start_s=7)
    (row,) = whole.forecasts
    assert not whole.is_measured and whole.gpu_requests_per_s == pytest.approx(50)
    assert row.bound == "GPUs" and row.run.spans["units"] == pytest.approx(REQUESTS / 200, rel=1e-4)
    assert whole.start_s == 7


def test_each_row_is_shown_in_one_slice_and_in_as_many_as_are_advised():
    # a worker has half a unit a second, so that the 32 of 64 workers take all of a driver's time
    whole = forecasts(gpus=[8, 512], driver_unit_s=1 / 32)
    assert [(row.gpus, row.run.slices) for row in whole.forecasts] == [(8, 1), (512, 1), (512, 2)]
    full, half = (row.run.driver_busy for row in whole.forecasts[1:])
    assert full == pytest.approx(1, rel=0.02) and half == pytest.approx(0.5, rel=0.02)


def test_more_prefixes_are_read_faster():
    reading = replace(job(), source_gets=float(1000 * REQUESTS))
    hours = [
        forecast_whole_job(FleetOptions(gpus=[512], source_prefixes=count), 0.0, reading, simulator(8), None)
        .forecasts[0]
        .hours
        for count in (1, 4)
    ]
    assert hours[0] / hours[1] == pytest.approx(4, rel=0.01)
