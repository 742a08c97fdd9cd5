"""Estimates how long each visit would have taken without contention for CPU cores and GPUs.

A visit is a stage's work on a unit, from `start` to `end`; its process used `cpu_s` CPU seconds meanwhile.
When all visits under way together want D cores and there are only C < D, each runs at C / D of its full
speed. So a visit's time alone is the sum of its seconds, each multiplied by the speed at that time. The
number of cores that a stage keeps busy is its CPU seconds divided by its time alone. Each follows from the
other; fixed-point iteration finds both, starting from the measured time. GPUs are shared in the same way by
the visits that want any; how much they want is known.
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
    gpus: int = 0,
    gpu_demand_S: Sequence[float] = (),
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Estimate each visit's seconds alone, [V, S], and the cores that each stage wants, [S].

    Args:
        start_VS, end_VS, cpu_VS: [V, S] seconds of V units' visits to S stages.
        cores: C.
        loading: start and end of each loading of a model, which takes one core.
        gpus, gpu_demand_S: how many there are, and how many a visit to each stage wants; 0 and none: no stage
            uses any.
    """
    spans = np.array(loading).reshape(-1, 2)
    begins = np.concatenate([start_VS.ravel(), spans[:, 0]])
    ends = np.concatenate([end_VS.ravel(), spans[:, 1]])
    times = np.concatenate([begins, ends])
    order = np.argsort(times, kind="stable")
    ticks = times[order]
    alone_VS = end_VS - start_VS
    on_gpu_S = np.array(gpu_demand_S or [0.0] * start_VS.shape[1])
    wanted = np.concatenate([np.broadcast_to(on_gpu_S, start_VS.shape).ravel(), np.zeros(len(spans))])
    gpu_speed = _speed(wanted, order, gpus or float("inf"))
    for _ in range(_ROUNDS):
        demand_S = _demand(cpu_VS.sum(0), alone_VS.sum(0), cores)
        wanted = np.concatenate([np.broadcast_to(demand_S, start_VS.shape).ravel(), np.ones(len(spans))])
        speed = _speed(wanted, order, cores)
        plain_VS = _progressed(start_VS, end_VS, ticks, speed)
        both_VS = _progressed(start_VS, end_VS, ticks, np.minimum(speed, gpu_speed))
        alone_VS = np.where(on_gpu_S > 0, both_VS, plain_VS)
    return alone_VS, demand_S


def _speed(wanted: NDArray[np.float64], order: NDArray[np.int64], capacity: float) -> NDArray[np.float64]:
    """Compute the speed from each tick on: what there is over what visits want, at most 1."""
    at_once = np.cumsum(np.concatenate([wanted, -wanted])[order])
    return np.asarray(np.minimum(1.0, capacity / np.maximum(at_once, 1e-9)))


def _progressed(
    start_VS: NDArray[np.float64],
    end_VS: NDArray[np.float64],
    ticks: NDArray[np.float64],
    speed: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Add up each visit's seconds, multiplied by the speed at that time."""
    progress = np.concatenate([[0.0], np.cumsum(speed[:-1] * np.diff(ticks))])
    return np.asarray(np.interp(end_VS, ticks, progress) - np.interp(start_VS, ticks, progress))


def _demand(cpu_S: NDArray[np.float64], alone_S: NDArray[np.float64], cores: float) -> NDArray[np.float64]:
    """Compute the cores that stages want: at most all, none for a stage that took no time."""
    demand_S: NDArray[np.float64] = np.divide(cpu_S, alone_S, out=np.zeros(len(cpu_S)), where=alone_S > 0)
    return np.minimum(cores, demand_S)
