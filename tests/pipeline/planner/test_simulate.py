"""The simulation agrees with times computed by hand."""

import numpy as np
import pytest

from pipeline.planner.contention import without_contention
from pipeline.planner.simulate import Simulated, Station, Worker, simulate


def run(worker: Worker, units: int, *seconds: float, handover: float = 0.0) -> Simulated:
    """Simulate units that all take these seconds at the stations."""
    alone = np.tile(np.array(seconds), (units, 1))
    return simulate(worker, alone, np.full(alone.shape, handover))


def row(*servers: int, **more: object) -> Worker:
    """Make a row of stations with these numbers of servers, all ready from the start."""
    return Worker(
        tuple(Station(f"s{place}", (0.0,) * number) for place, number in enumerate(servers)), **more
    )


@pytest.mark.parametrize(("servers", "units"), [(1, 1), (1, 7), (3, 12), (3, 13)])
def test_one_station_takes_rounds_of_its_servers(servers, units):
    simulated = run(row(servers), units, 2.0)
    assert simulated.seconds == 2.0 * -(-units // servers)


def test_a_handover_keeps_the_server_and_no_core():
    assert run(row(1), 5, 2.0, handover=0.5).seconds == 5 * 2.5
    worker = Worker((Station("a", (0.0,), demand=1.0), Station("b", (0.0,), demand=1.0)), cores=1)
    # a handover at one station leaves the core to the other
    assert run(worker, 1, 1.0, 1.0, handover=0.5).seconds == 3.0


def test_a_delay_keeps_no_server():
    alone = np.full((5, 2), 1.0)
    delay = np.zeros((5, 2))
    delay[1, 1] = 10.0
    simulated = simulate(row(1, 1), alone, np.zeros((5, 2)), delay)
    # the second unit comes to the second station 10 s late, and the others pass it
    assert simulated.ended[:, 1].tolist() == [2.0, 13.0, 4.0, 5.0, 6.0]


@pytest.mark.parametrize(("first", "second"), [(1.0, 3.0), (3.0, 1.0), (2.0, 2.0)])
def test_two_stations_run_at_the_rate_of_the_slower_one_once_filled(first, second):
    simulated = run(row(1, 1), 20, first, second)
    slow, fast = max(first, second), min(first, second)
    assert simulated.seconds == 20 * slow + fast
    assert simulated.units_per_s == pytest.approx(1 / slow)
    busiest = max(simulated.busy, key=lambda name: simulated.busy[name])
    assert simulated.busy[busiest] == pytest.approx(1)
    assert (
        simulated.busy["s0"] / simulated.busy["s1"] == pytest.approx(first / second, rel=0.1)
        or first < second
    )


def test_servers_that_come_later_take_units_later():
    worker = Worker((Station("a", (0.0,)), Station("b", (10.0, 14.0))))
    simulated = run(worker, 4, 1.0, 4.0)
    # two of b's servers from 14 on; the first has done a unit by then
    assert sorted(simulated.ended[:, 1]) == [14.0, 18.0, 18.0, 22.0]


@pytest.mark.parametrize("room", [1, 2, 5])
def test_backpressure_holds_a_station_up(room):
    worker = Worker((Station("a", (0.0,), room=room), Station("b", (0.0,))))
    simulated = run(worker, 30, 1.0, 10.0)
    begun, taken = simulated.begun[:, 0], simulated.begun[:, 1]
    for unit in range(30):
        behind = np.count_nonzero((begun <= begun[unit]) & (taken > begun[unit])) - 1
        assert behind < room
    # the limit costs no time, since the second station is the slower one
    assert simulated.seconds == 1 + 30 * 10


def test_stations_share_the_cores():
    """Two stations that each use both cores take the sum of their times."""
    stations = tuple(Station(name, (0.0,), demand=2.0) for name in "ab")
    simulated = run(Worker(stations, cores=2.0), 50, 1.0, 3.0)
    assert simulated.seconds == pytest.approx(50 * 4.0)
    assert simulated.busy["cores"] == pytest.approx(1)
    # with enough cores for both, neither slows the other
    assert run(Worker(stations, cores=4.0), 50, 1.0, 3.0).seconds == pytest.approx(1 + 50 * 3.0)


def test_a_model_that_loads_takes_a_core():
    worker = Worker((Station("a", (0.0,), demand=2.0),), cores=2.0, loading=((0.0, 3.0),))
    # 3 s at 2/3 of the speed do 2 s of work
    assert run(worker, 1, 5.0).seconds == pytest.approx(6.0)


@pytest.mark.parametrize("demand", [(0.5, 1.0, 2.0), (2.0, 2.0, 0.3), (1.0, 1.0, 1.0)])
def test_contention_is_removed_from_measured_times(demand):
    """The inverse of the simulation recovers uncontended times from begins, ends and CPU seconds."""
    rng = np.random.default_rng(3)
    alone = rng.uniform(0.5, 2.0, (60, 3)) * [0.5, 1.0, 1.5]
    stations = tuple(Station(str(place), (0.0,), demand=p) for place, p in enumerate(demand))
    worker = Worker(stations, cores=2.0, loading=((0.0, 6.0),))
    simulated = simulate(worker, alone, rng.uniform(0.0, 0.3, alone.shape))
    assert (simulated.ended - simulated.begun).mean() > 1.05 * alone.mean(), (
        "the simulation has no contention"
    )
    again, cores = without_contention(
        simulated.begun, simulated.ended, alone * np.array(demand), worker.cores, worker.loading
    )
    np.testing.assert_allclose(cores, demand, rtol=0.02)
    np.testing.assert_allclose(again, alone, rtol=0.02)
