"""Simulates lots of units on their way through stations, first come, first served.

A lot is some units in a row that are simulated as one. Where a job is small, each lot is one unit, and the
simulation is that of the units. Of a larger one the first and the last lots are still single units, which is
what the begin and the end of a job depend on; those between are larger, so that there are some thousand lots
whatever the job's size. Stations have room for all that waits: nothing is held up by what comes behind it.
This makes the stations' times exact one after the other, without a common clock.

N lots.
"""

import heapq
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_GRAIN = 16  # lots that each server has yet to come, at least, while lots are larger than a unit


def lot_sizes(units: int, servers: int) -> NDArray[np.int64]:
    """Cut units into lots for so many servers: single units at both ends, larger lots in between."""
    sizes: list[int] = []
    done = 0
    while done < units:
        sizes.append(max(1, min(done, units - done) // (_GRAIN * servers)))
        done += sizes[-1]
    return np.array(sizes, np.int64)


def through_one(
    arrival_N: NDArray[np.float64], service_N: NDArray[np.float64], ready: float = 0.0
) -> NDArray[np.float64]:
    """Compute when lots leave a single server, which takes them in the order of their arrival.

    Args:
        arrival_N: seconds at which they arrive, in any order.
        service_N: seconds that each takes.
        ready: the second from which the server works.
    """
    order = np.argsort(arrival_N, kind="stable")
    worked = np.cumsum(service_N[order])
    idle = np.maximum.accumulate(np.maximum(arrival_N[order], ready) - (worked - service_N[order]))
    left = np.empty(len(arrival_N))
    left[order] = worked + idle
    return left


def through_several(
    arrival_N: NDArray[np.float64], service_N: NDArray[np.float64], ready: Sequence[float]
) -> NDArray[np.float64]:
    """Compute when lots leave a station of several servers; each lot takes the server that is free first.

    Args:
        ready: for each server the second from which it works.
    """
    free = sorted(ready)
    heapq.heapify(free)
    left = np.empty(len(arrival_N))
    for lot in np.argsort(arrival_N, kind="stable").tolist():
        left[lot] = max(float(arrival_N[lot]), free[0]) + float(service_N[lot])
        heapq.heapreplace(free, left[lot])
    return left
