"""Estimates how long each visit would have taken without contention for the CPU cores.

A visit is a stage's work on a unit, from `start` to `end`; its process used `cpu_s` CPU seconds meanwhile.
When all visits under way together want D cores and there are only C < D, each runs at C / D of its full
speed. So a visit's time alone is the sum of its seconds, each multiplied by the speed at that time. The
number of cores that a stage keeps busy is its CPU seconds divided by its time alone. Each follows from the
other; fixed-point iteration finds both, starting from the measured time.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_ROUNDS = 100


def without_contention(
    start_VS: NDArray[np.float64],
    end_VS: NDArray[np.float64],
    cpu_VS: NDArray[np.float64],
    cores: float,
    loading: Sequence[tuple[float, float]] = (),
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Estimate each visit's seconds alone, [V, S], and the cores that each stage wants, [S].

    Args:
        start_VS, end_VS, cpu_VS: [V, S] seconds of V units' visits to S stages.
        cores: C.
        loading: start and end of each loading of a model, which takes one core.
    """
    spans = np.array(loading).reshape(-1, 2)
    begins = np.concatenate([start_VS.ravel(), spans[:, 0]])
    ends = np.concatenate([end_VS.ravel(), spans[:, 1]])
    times = np.concatenate([begins, ends])
    order = np.argsort(times, kind="stable")
    ticks = times[order]
    alone_VS = end_VS - start_VS
    for _ in range(_ROUNDS):
        demand_S = _demand(cpu_VS.sum(0), alone_VS.sum(0), cores)
        wanted = np.concatenate([np.broadcast_to(demand_S, start_VS.shape).ravel(), np.ones(len(spans))])
        at_once = np.cumsum(np.concatenate([wanted, -wanted])[order])
        speed = np.minimum(1.0, cores / np.maximum(at_once, 1e-9))
        progress = np.concatenate([[0.0], np.cumsum(speed[:-1] * np.diff(ticks))])
        alone_VS = np.interp(end_VS, ticks, progress) - np.interp(start_VS, ticks, progress)
    return alone_VS, demand_S


def _demand(cpu_S: NDArray[np.float64], alone_S: NDArray[np.float64], cores: float) -> NDArray[np.float64]:
    """Compute the cores that stages want: at most all, none for a stage that took no time."""
    demand_S: NDArray[np.float64] = np.divide(cpu_S, alone_S, out=np.zeros(len(cpu_S)), where=alone_S > 0)
    return np.minimum(cores, demand_S)
