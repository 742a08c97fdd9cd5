"""Simulates a whole job on a fleet of workers that is shared out to slices: from the listing to `finish`.

    listing, plan   once, by the first slice, whose GPUs are booked meanwhile; then the other slices start
    start           each slice reads the plan, starts Ray and loads its models
    units           lots of units pass, in each slice, its driver, its ledger, the source's store (one for all
                    slices), its workers, and the output's store (one for all)
    sums            each slice lists and sums up what it has made; its allocation lasts until then
    finish          one machine without GPUs sums up all slices; a run without slices does that at its own end

A cluster makes one slice after the other if there are more slices than workers.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.planner import station_costs as costs
from pipeline.planner.queues import lot_sizes, through_one, through_several
from pipeline.planner.workload import Workload

_PAGE, _PART = 1000, 1000  # names in a page of a listing, shards in a part of the plan
_OUTPUT_FILES = 2  # of a shard's sums
# The stations that units pass.
DRIVER, LEDGER, GETS, WORKERS, PUTS = "driver", "ledger", "source GETs", "workers", "output PUTs"


@dataclass(frozen=True)
class Pool:
    """Holds workers that are alike.

    Args:
        name: what binds within a worker, such as `generate`.
        gpus, actors: of a worker.
        unit_s: seconds for each unit in a worker's steady state.
        ready_s: from a start of Ray until the models are loaded.
        offset_s: `ready_s`, and what the first and the last units take besides.
    """

    name: str
    gpus: float
    actors: float
    unit_s: float
    ready_s: float
    offset_s: float


@dataclass(frozen=True, kw_only=True)
class Rates:
    """Holds seconds that stations take for one of what they do; 0: no time.

    Args:
        driver_unit_s: None: by the number of its actors.
    """

    driver_unit_s: float | None = None
    ledger_unit_s: float = 1 / costs.LEDGER_UNITS_S.value
    get_s: float = 1 / costs.GETS_S.value
    put_s: float = 1 / costs.PUTS_S.value
    list_page_s: float = costs.LIST_PAGE_S.value
    list_name_s: float = costs.LIST_NAME_S.value
    plan_name_s: float = costs.PLAN_NAME_S.value
    plan_part_s: float = costs.PLAN_PART_S.value
    small_file_s: float = costs.SMALL_FILE_S.value / costs.CONCLUDING_CORES.value
    key_s: float = costs.KEY_S.value

    def driver(self, actors: float) -> float:
        """Return the driver's seconds for a unit, with so many actors."""
        return costs.driver_unit_s(actors) if self.driver_unit_s is None else self.driver_unit_s

    def listing(self, work: Workload) -> float:
        """Return the seconds of listing the source, or of reading the table that names it."""
        asked = 0.0 if work.layout == "inventory" else pages(work.listed) * self.list_page_s
        return asked + work.listed * self.list_name_s

    def sums(self, units: float, shards: float, images: float) -> float:
        """Return the seconds of listing the units of shards, and of adding up the shards' sums."""
        names = pages(units) + pages(_OUTPUT_FILES * shards)
        return names * self.list_page_s + _OUTPUT_FILES * shards * self.small_file_s + images * self.key_s


@dataclass(frozen=True)
class FleetRun:
    """Holds the simulated seconds of a job.

    Args:
        spans: seconds of the job's parts, one after the other, as this module names them.
        busy: seconds that each station works; of those that every slice has, the busiest one's.
        booked: GPU seconds.
        driver_unit_s: seconds of a slice's driver for each unit.
    """

    workers: int
    slices: int
    spans: dict[str, float]
    busy: dict[str, float]
    booked: float
    driver_unit_s: float

    @property
    def seconds(self) -> float:
        """The seconds from the begin of the listing to the end of `finish`."""
        return sum(self.spans.values())

    @property
    def bound(self) -> str:
        """The station that works for most of the job's time."""
        return max(self.busy, key=lambda name: self.busy[name])

    @property
    def share(self) -> float:
        """The share of the job's time during which the bottleneck works."""
        return self.busy[self.bound] / self.seconds

    @property
    def driver_busy(self) -> float:
        """The share of the units' time during which the busiest driver works."""
        return self.busy[DRIVER] / self.spans["units"]

    @property
    def driver_load(self) -> float:
        """The busiest driver's seconds, divided by those of the workers or of the source's store."""
        return self.busy[DRIVER] / max(self.busy[WORKERS], self.busy[GETS])


def pages(names: float) -> int:
    """Count the requests that list so many names, one at least."""
    return max(1, math.ceil(names / _PAGE))


def parts(shards: int) -> int:
    """Count the files of a plan."""
    return max(1, math.ceil(shards / _PART))


def shared_out(total: int, places: int) -> list[int]:
    """Share out a number to places as evenly as whole numbers allow, the larger ones first."""
    return [total // places + (place < total % places) for place in range(places)]


def simulate_fleet(work: Workload, pool: Pool, workers: int, slices: int, rates: Rates) -> FleetRun:
    """Simulate a job on so many workers, in so many slices."""
    filled = min(slices, work.units)  # slices without a unit end at once
    clusters = min(filled, workers)
    in_turn = math.ceil(filled / clusters)  # slices of a cluster
    units_C, workers_C = shared_out(work.units, clusters), shared_out(workers, clusters)
    listing, plan = rates.listing(work), work.listed * rates.plan_name_s
    sums_C = [
        rates.sums(*(part * units / work.units for part in (work.units, work.shards, work.images)))
        for units in units_C
    ]
    load = parts(work.shards) * rates.plan_part_s
    again = (in_turn - 1) * (load + pool.ready_s)
    begun = listing + plan + load + again
    driver_unit_s = rates.driver(pool.actors * workers_C[0])
    gets = work.source_gets or 0.0
    ended_C = begun + _through_stations(
        units_C, workers_C, pool, rates, driver_unit_s, gets / work.units * rates.get_s
    )
    last = int(np.argmax(ended_C + np.array(sums_C)))
    ends = ended_C + np.array(sums_C)
    booked = sum(
        workers_C[place] * pool.gpus * (end - (listing + plan) * (place > 0))
        for place, end in enumerate(ends.tolist())
    )
    finish = rates.sums(work.units, work.shards, work.images) if slices > 1 else 0.0
    spans = {
        "listing": listing,
        "plan": plan,
        "start": load + again + pool.ready_s,
        "units": float(ended_C[last]) - begun - pool.ready_s,
        "sums": sums_C[last],
        "finish": finish,
    }
    per_worker = max(units / number for units, number in zip(units_C, workers_C, strict=True))
    busy = {name: seconds for name, seconds in spans.items() if name != "units"} | {
        DRIVER: max(units_C) * driver_unit_s,
        LEDGER: max(units_C) * rates.ledger_unit_s,
        GETS: gets * rates.get_s,
        WORKERS: per_worker * pool.unit_s,
        PUTS: work.units * rates.put_s,
    }
    return FleetRun(workers, slices, spans, busy, booked, driver_unit_s)


def _through_stations(
    units_C: Sequence[int],
    workers_C: Sequence[int],
    pool: Pool,
    rates: Rates,
    driver_unit_s: float,
    gets_unit_s: float,
) -> NDArray[np.float64]:
    """Compute when the last unit of each cluster is written, in seconds from the start of Ray, [C]."""
    lots_C = [lot_sizes(units, number) for units, number in zip(units_C, workers_C, strict=True)]
    # clusters take turns: of lots that come to a store at once, those of one do not go before all others
    turns = np.argsort(np.concatenate([np.arange(len(lots)) for lots in lots_C]), kind="stable")
    size_N = np.concatenate(lots_C)[turns].astype(np.float64)
    cluster_N = np.repeat(np.arange(len(lots_C)), list(map(len, lots_C)))[turns]
    of_cluster = [np.flatnonzero(cluster_N == cluster) for cluster in range(len(lots_C))]
    at_N = np.zeros(len(size_N))
    for own in of_cluster:
        at_N[own] = through_one(at_N[own], size_N[own] * driver_unit_s, pool.ready_s)
        at_N[own] = through_one(at_N[own], size_N[own] * rates.ledger_unit_s)
    at_N = through_one(at_N, size_N * gets_unit_s)
    for own, number in zip(of_cluster, workers_C, strict=True):
        at_N[own] = through_several(at_N[own], size_N[own] * pool.unit_s, [pool.offset_s] * number)
    at_N = through_one(at_N, size_N * rates.put_s)
    return np.array([at_N[own].max() for own in of_cluster])
