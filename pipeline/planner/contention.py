"""What a visit would have taken alone: the profile's seconds without what others had of the cores.

A visit is a stage's work on a unit: from `start` to `end`, in which its process took `cpu_s` of the cores.
If its stage keeps p cores busy, and at some second all that was under way wanted D > C of the C cores, it
went on at C / D of its speed then. So a visit's time alone is the sum of its seconds, each at that speed, and
p is CPU seconds by time alone. Each follows from the other; iteration finds both, from p = cpu_s by the
time that the visit took.
"""

from collections.abc import Sequence

import numpy as np

_ROUNDS = 100


def without_contention(
    start_VS: np.ndarray,
    end_VS: np.ndarray,
    cpu_VS: np.ndarray,
    cores: float,
    loading: Sequence[tuple[float, float]] = (),
) -> tuple[np.ndarray, np.ndarray]:
    """Each visit's seconds alone, [V, S], and each stage's demand of cores, [S].

    Args:
        start_VS, end_VS, cpu_VS: [V, S] seconds of V units' visits to S stages.
        cores: C.
        loading: when models were loaded, a core each.
    """
    spans = np.array(loading).reshape(-1, 2)
    begins = np.concatenate([start_VS.ravel(), spans[:, 0]])
    ends = np.concatenate([end_VS.ravel(), spans[:, 1]])
    times = np.concatenate([begins, ends])
    order = np.argsort(times, kind="stable")
    ticks = times[order]
    alone_VS = end_VS - start_VS
    for _ in range(_ROUNDS):
        demand_S = _ratio(cpu_VS.sum(0), alone_VS.sum(0), cores)
        wanted = np.concatenate([np.broadcast_to(demand_S, start_VS.shape).ravel(), np.ones(len(spans))])
        at_once = np.cumsum(np.concatenate([wanted, -wanted])[order])
        rate = np.minimum(1.0, cores / np.maximum(at_once, 1e-9))
        done = np.concatenate([[0.0], np.cumsum(rate[:-1] * np.diff(ticks))])
        alone_VS = np.interp(end_VS, ticks, done) - np.interp(start_VS, ticks, done)
    return alone_VS, demand_S


def _ratio(cpu_S: np.ndarray, alone_S: np.ndarray, cores: float) -> np.ndarray:
    return np.minimum(cores, np.divide(cpu_S, alone_S, out=np.zeros(len(cpu_S)), where=alone_S > 0))
