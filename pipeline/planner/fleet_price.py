"""Counts what a whole job asks of the store, and prices that and the GPUs' hours."""

import math
from dataclasses import dataclass

from pipeline.compare.cost import Pricing
from pipeline.planner.fleet import pages, parts
from pipeline.planner.fleet_options import FleetOptions
from pipeline.planner.workload import Workload

_THOUSAND = 1000


@dataclass(frozen=True)
class StoreRequests:
    """Counts the requests to the store of a whole job. `gets` None: unknown."""

    puts: int
    gets: int | None
    lists: int


@dataclass(frozen=True)
class Prices:
    """Holds the price of a GPU's hour, and of a thousand requests to the store; None: not charged."""

    gpu_hour: float | None
    put: float | None
    get: float | None
    list: float | None
    currency: str

    @staticmethod
    def of(options: FleetOptions, pricing: Pricing | None, worker_gpus: int) -> "Prices":
        """Collect the prices; that of a GPU is its part of a worker's, unless it is given.

        Args:
            worker_gpus: of a worker; 0: the prices of workers say nothing of GPUs.
        """
        gpu_hour = options.gpu_hour_price
        if gpu_hour is None and pricing is not None and worker_gpus:
            gpu_hour = pricing.price_per_hour / worker_gpus
        currency = "price" if pricing is None else pricing.currency
        return Prices(gpu_hour, options.put_price, options.get_price, options.list_price, currency)

    def money(self, gpu_hours: float, requests: StoreRequests) -> float | None:
        """Compute the price of a job; None if that of a GPU is not given."""
        if self.gpu_hour is None:
            return None
        charged = ((self.put, requests.puts), (self.get, requests.gets), (self.list, requests.lists))
        store = sum(price * (count or 0) / _THOUSAND for price, count in charged if price is not None)
        return gpu_hours * self.gpu_hour + store


def store_requests(work: Workload, slices: int) -> StoreRequests:
    """Count what the code asks of the store for a job in so many slices.

    PUTs: a file a unit, two for the sums of each shard, the plan's parts, a note of each slice. GETs: the
    source; for each shard two to find it in the plan, two to read its sums at the end of its slice, and two
    for `finish`; for each unit its footer, once; the plan, for each slice. Listings: of the source; of the
    units, and of the sums, by the slices together and by `finish`.
    """
    readings = 1 if slices == 1 else 2  # of the sums
    inventory = work.layout == "inventory"
    listings = pages(work.units) + pages(2 * work.shards)
    gets = work.source_gets
    return StoreRequests(
        puts=work.units + 2 * work.shards + parts(work.shards) + (slices if slices > 1 else 0),
        gets=None
        if gets is None
        else math.ceil(gets) + work.units + (2 + 2 * readings) * work.shards + slices * parts(work.shards),
        lists=(0 if inventory else pages(work.listed)) + readings * max(listings, slices),
    )
