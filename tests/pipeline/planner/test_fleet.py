"""The simulation of a whole job agrees with exact arithmetic, where there is some, and keeps its promises."""

import math
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.planner import station_costs
from pipeline.planner.fleet import Pool, Rates, pages, shared_out, simulate_fleet
from pipeline.planner.fleet_forecast import calm_slices
from pipeline.planner.fleet_price import Prices, StoreRequests, store_requests
from pipeline.planner.workload import Workload

NOTHING = Rates(
    driver_unit_s=0,
    ledger_unit_s=0,
    get_s=0,
    put_s=0,
    list_page_s=0,
    list_name_s=0,
    plan_name_s=0,
    plan_part_s=0,
    small_file_s=0,
    key_s=0,
)
READY_S, UNIT_S = 100.0, 4.0


def pool(**changed) -> Pool:
    """Make workers of eight GPUs that take 4 s for a unit."""
    plain = Pool("generate", gpus=8, actors=10, unit_s=UNIT_S, ready_s=READY_S, offset_s=READY_S)
    return replace(plain, **changed)


def work(units: int, **changed) -> Workload:
    """Make a job of tars with ten units each, and units of 64 requests about 32 images."""
    plain = Workload(
        requests=64 * units,
        images=32.0 * units,
        units=units,
        shards=math.ceil(units / 10),
        layout="tars",
        listed=math.ceil(units / 10),
        source_gets=3.0 * units,
    )
    return replace(plain, **changed)


def seconds(units: int, workers: int, slices: int, rates: Rates, **changed) -> float:
    return simulate_fleet(work(units), pool(**changed), workers, slices, rates).seconds


@pytest.mark.parametrize("slices", [1, 2, 4, 8])
@pytest.mark.parametrize("units", [8, 61, 120])
def test_where_only_workers_take_time_they_take_rounds(units, slices):
    run = simulate_fleet(work(units), pool(), 8, slices, NOTHING)
    assert run.seconds == READY_S + UNIT_S * math.ceil(units / 8)
    assert run.spans["units"] == run.seconds - READY_S
    assert run.booked == pytest.approx(8 * 8 * run.seconds, rel=0.2)


@pytest.mark.parametrize("driver_s", [1.0, 4.0, 7.5])
def test_a_driver_that_binds_takes_its_seconds_for_each_unit(driver_s):
    """The last unit leaves the driver at its end, and then takes a worker its time."""
    rates = replace(NOTHING, driver_unit_s=driver_s)
    run = simulate_fleet(work(50), pool(), 8, 1, rates)
    assert run.seconds == READY_S + 50 * driver_s + UNIT_S
    assert run.driver_busy == pytest.approx(1, rel=0.1)
    huge = simulate_fleet(work(10**7), pool(), 8, 1, rates)
    assert huge.seconds == pytest.approx(READY_S + 10**7 * driver_s + UNIT_S, rel=1e-9)
    assert huge.bound == "driver" and huge.share == pytest.approx(1, rel=1e-3)


def test_stations_in_a_row_run_at_the_rate_of_the_slowest():
    """Each unit passes them all, and all units but one wait for the slowest."""
    rates = replace(NOTHING, driver_unit_s=1.0, ledger_unit_s=2.0, put_s=3.0, get_s=0.5)
    run = simulate_fleet(work(6), pool(), 1, 1, rates)
    assert run.seconds == READY_S + (1.0 + 2.0 + 3 * 0.5 + UNIT_S + 3.0) + 5 * UNIT_S


def test_slices_have_drivers_of_their_own():
    rates = replace(NOTHING, driver_unit_s=8.0)
    one, two, eight = (seconds(64, 8, slices, rates) for slices in (1, 2, 8))
    assert one == READY_S + 64 * 8 + UNIT_S
    assert two == READY_S + 32 * 8 + UNIT_S
    assert eight == READY_S + 8 * 8 + UNIT_S


@pytest.mark.parametrize("slices", [1, 4, 8])
def test_all_slices_share_the_stores_rates(slices):
    puts = simulate_fleet(work(4000), pool(), 8, slices, replace(NOTHING, put_s=5.0))
    assert puts.seconds == pytest.approx(READY_S + UNIT_S + 4000 * 5.0) and puts.bound == "output PUTs"
    gets = simulate_fleet(work(4000), pool(), 8, slices, replace(NOTHING, get_s=2.0))
    assert gets.seconds == pytest.approx(READY_S + 4000 * 3 * 2.0 + UNIT_S, rel=1e-3)
    assert gets.bound == "source GETs"


def test_the_parts_before_and_after_the_units_are_added_up():
    rates = replace(
        NOTHING,
        list_page_s=3.0,
        list_name_s=0.02,
        plan_name_s=0.01,
        plan_part_s=7.0,
        small_file_s=0.5,
        key_s=0.001,
    )
    job = work(80_000, listed=5500)
    run = simulate_fleet(job, pool(), 8, 4, rates)
    listing, plan, load = 6 * 3.0 + 5500 * 0.02, 5500 * 0.01, 8 * 7.0
    sums = (20 + 4) * 3.0 + 2 * 2000 * 0.5 + 640_000 * 0.001
    finish = (80 + 16) * 3.0 + 2 * 8000 * 0.5 + 2_560_000 * 0.001
    units = 80_000 / 8 * UNIT_S
    assert run.spans == pytest.approx(
        {
            "listing": listing,
            "plan": plan,
            "start": load + READY_S,
            "units": units,
            "sums": sums,
            "finish": finish,
        },
        rel=1e-3,
    )
    # the first of four slices holds its 16 GPUs while it lists; none is booked for finish
    each = load + READY_S + units + sums
    assert run.booked == pytest.approx(64 * each + 16 * (listing + plan), rel=1e-3)
    inventory = simulate_fleet(replace(job, layout="inventory"), pool(), 8, 4, rates)
    assert inventory.spans["listing"] == pytest.approx(5500 * 0.02), "no page is asked for"
    alone = simulate_fleet(job, pool(), 8, 1, rates)
    assert alone.spans["sums"] == pytest.approx(finish) and alone.spans["finish"] == 0
    assert alone.booked == pytest.approx(64 * alone.seconds), "one run holds all GPUs to its end"


def test_a_cluster_starts_again_for_each_of_its_slices():
    rates = replace(NOTHING, plan_part_s=5.0)
    job = work(80)
    once, thrice = (simulate_fleet(job, pool(), 2, slices, rates) for slices in (2, 6))
    assert thrice.seconds - once.seconds == 2 * (READY_S + 5.0)


def test_slices_of_unlike_clusters_end_with_the_smallest_cluster():
    run = simulate_fleet(work(120), pool(), 5, 3, NOTHING)  # 2, 2 and 1 workers
    assert run.seconds == READY_S + 40 * UNIT_S


@settings(deadline=None)
@given(
    units=st.integers(1, 240),
    workers=st.sampled_from([1, 2, 4, 8, 16]),
    driver_s=st.floats(0, 8),
    ledger_s=st.floats(0, 8),
    put_s=st.floats(0, 2),
    get_s=st.floats(0, 1),
)
def test_more_slices_are_never_slower(units, workers, driver_s, ledger_s, put_s, get_s):
    rates = replace(NOTHING, driver_unit_s=driver_s, ledger_unit_s=ledger_s, put_s=put_s, get_s=get_s)
    units = min(units, 15 * workers)  # so few that each lot is a unit
    numbers = [2**power for power in range(5) if 2**power <= workers]
    # units come to the stores in another order, so that it may be the last slice that waits for all others
    slack = 1e-6 + workers * (put_s + 3 * get_s)
    times = [seconds(units, workers, slices, rates) for slices in numbers]
    assert all(after <= before + slack for before, after in pairwise(times))


@settings(deadline=None, max_examples=50)
@given(units=st.integers(1, 10**8), driver_s=st.floats(0, 1), workers=st.sampled_from([1, 4, 16, 64]))
def test_no_job_is_faster_than_its_bottleneck(units, driver_s, workers):
    rates = replace(NOTHING, driver_unit_s=driver_s)
    for slices in {1, workers}:
        run = simulate_fleet(work(units), pool(), workers, slices, rates)
        assert run.seconds >= run.busy[run.bound] * (1 - 1e-9)
        rounds = max(run.busy["driver"], run.busy["workers"])
        # some lots stand for several units; what they wait for one another is less than a part in 30
        assert run.seconds <= READY_S + 1.04 * rounds + driver_s + 2 * UNIT_S


def test_the_driver_costs_what_was_measured_and_grows_with_actors():
    (few, low), (many, high) = station_costs.DRIVER_UNIT_S[0], station_costs.DRIVER_UNIT_S[-1]
    assert station_costs.driver_unit_s(1) == station_costs.driver_unit_s(few) == low
    assert station_costs.driver_unit_s(many) == high
    assert low < station_costs.driver_unit_s((few + many) / 2) < high < station_costs.driver_unit_s(2 * many)
    # the clusters of 64 slices are smaller, so that each of their drivers costs less
    one, many_slices = (simulate_fleet(work(1000), pool(), 64, slices, Rates()) for slices in (1, 64))
    assert one.driver_unit_s == station_costs.driver_unit_s(640) > many_slices.driver_unit_s


def test_as_many_slices_are_advised_as_leave_the_drivers_half_of_their_time():
    rates = replace(NOTHING, driver_unit_s=1.0)  # a worker has a unit every 4 s: two workers a driver
    assert [calm_slices(pool(), workers, rates) for workers in (1, 2, 4, 64)] == [1, 1, 2, 32]
    assert calm_slices(pool(), 64, NOTHING) == 1
    assert calm_slices(pool(), 7, replace(rates, driver_unit_s=3.0)) == 7, "no more than there are workers"


def test_requests_to_the_store_are_counted():
    job = work(80_000, listed=5500)
    assert store_requests(job, 1) == StoreRequests(
        puts=80_000 + 2 * 8000 + 8, gets=240_000 + 80_000 + 4 * 8000 + 8, lists=6 + 96
    )
    sliced = store_requests(job, 4)
    assert sliced.puts == 80_000 + 2 * 8000 + 8 + 4
    assert sliced.gets == 240_000 + 80_000 + 6 * 8000 + 4 * 8
    assert store_requests(replace(job, layout="inventory"), 1).lists == 96
    assert store_requests(replace(job, source_gets=None), 1).gets is None


def test_prices_that_are_not_given_are_not_charged():
    requests = StoreRequests(puts=1_000_000, gets=2_000_000, lists=5000)
    assert Prices(2.0, None, None, None, "USD").money(10, requests) == 20
    assert Prices(2.0, 0.005, 0.0004, 0.005, "USD").money(10, requests) == pytest.approx(20 + 5 + 0.8 + 0.025)
    assert Prices(None, 0.005, None, None, "USD").money(10, requests) is None


def test_pages_and_shares():
    assert [pages(names) for names in (0, 1, 1000, 1001)] == [1, 1, 1, 2]
    assert shared_out(10, 4) == [3, 3, 2, 2] and shared_out(2, 3) == [1, 1, 0]
