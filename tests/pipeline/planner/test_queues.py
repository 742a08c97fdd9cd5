"""Queues agree with times computed by hand, and lots with the units that they stand for."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.planner.queues import lot_sizes, through_one, through_several


def alike(count: int, seconds: float) -> np.ndarray:
    return np.full(count, seconds)


@pytest.mark.parametrize(("servers", "count"), [(1, 1), (1, 7), (3, 12), (3, 13)])
def test_a_station_takes_rounds_of_its_servers(servers, count):
    left = through_several(np.zeros(count), alike(count, 2.0), [5.0] * servers)
    assert left.max() == 5.0 + 2.0 * math.ceil(count / servers)


def test_the_first_to_arrive_is_the_first_to_leave():
    left = through_one(np.array([4.0, 0.0, 1.0]), np.array([1.0, 3.0, 1.0]), ready=1.0)
    assert left.tolist() == [6.0, 4.0, 5.0]
    late = through_one(np.array([0.0, 10.0]), np.array([1.0, 1.0]))
    assert late.tolist() == [1.0, 11.0], "an idle server makes nothing up"


@given(
    st.lists(st.tuples(st.floats(0, 100), st.floats(0, 10)), min_size=1, max_size=30),
    st.floats(0, 50),
)
def test_one_server_of_several_is_a_single_one(lots, ready):
    arrival, service = (np.array(column) for column in zip(*lots, strict=True))
    single, several = through_one(arrival, service, ready), through_several(arrival, service, [ready])
    assert single == pytest.approx(several)


@given(st.integers(1, 10**9), st.integers(1, 64))
def test_lots_hold_all_units_and_are_few(units, servers):
    sizes = lot_sizes(units, servers)
    assert sizes.sum() == units and sizes.min() >= 1
    assert sizes[0] == sizes[-1] == 1, "the begin and the end of a job are those of single units"
    assert len(sizes) <= 32 * servers * (2 + math.log(1 + units / servers))


def test_a_small_job_is_simulated_unit_by_unit():
    assert (lot_sizes(32 * 5, 5) == 1).all()


@pytest.mark.parametrize("driver_s", [0.002, 0.02, 0.2])
def test_lots_take_the_time_of_their_units(driver_s):
    """A driver before twelve workers: idle, nearly as fast as the workers, and the bottleneck."""

    def last(sizes: np.ndarray) -> float:
        at = through_one(np.zeros(len(sizes)), sizes * driver_s)
        return float(through_several(at, sizes * 0.25, [10.0] * 12).max())

    units = 50_000
    assert last(lot_sizes(units, 12)) == pytest.approx(last(np.ones(units)), rel=0.01)
