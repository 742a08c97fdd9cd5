"""Counts a profile's GPUs, and how much of a GPU each stage wants while it works.

A language model has its GPU to itself, or whole GPUs, but for CLIPs beside it: they share the GPU's time, as
two processes do without NVIDIA's MPS. Ray gives units to whichever model is free, so that it makes no
difference to the sum on which GPU a CLIP sits: all GPUs count as one resource, as the cores of all nodes do.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.output.footers import Footer
from pipeline.run.cluster.gpu_room import models_a_gpu
from pipeline.run.cluster.resources import Cluster

_TINY = 1e-9  # against rounding: 0.6 / 0.2 is 3
_CLIP_S = ("encode_s", "reduce_s")  # measured on the device, with the work queued there


@dataclass(frozen=True)
class Gpus:
    """Holds the GPUs of a worker, and what one server of each stage wants of them; stages on CPUs nothing."""

    count: int
    demand: dict[str, float]


def gpus_of(footers: Sequence[Footer], cluster: Cluster, units_at_once: int) -> Gpus:
    """Count the GPUs that a job's actors were given, and what they want; none if torch used none.

    A server of generate is one of the `units_at_once` threads of an actor. CLIP wants a GPU for the part of
    its time in which it encodes and reduces; the rest is work of the CPU around it.
    """
    used = any(visit.peak_gpu_memory_bytes is not None for unit in footers for visit in unit.stages.values())
    generate, encode = (used and stage.num_gpus != 0 for stage in (cluster.generate, cluster.encode))
    each, is_beside = models_a_gpu(cluster.encode, cluster.generate) if generate else (1, False)
    whole = max(1, int(cluster.generate.num_gpus or 1))
    models = math.ceil((cluster.generate.num_actors or 1) / each) * whole if generate else 0
    demand = {"generate": whole / (each * units_at_once)} if generate else {}
    if not encode:
        return Gpus(models, demand)
    clips, clip = cluster.encode.num_actors or 1, cluster.encode.num_gpus
    alone = math.ceil(clips / int(1 / clip + _TINY)) if clip and clip <= 1 else clips
    demand["encode"] = _on_gpu(footers)
    return Gpus(models if is_beside else models + alone, demand)


def _on_gpu(footers: Sequence[Footer]) -> float:
    """Compute the part of CLIP's time that it spends on its GPU, at most 1."""
    visited = sum(footer.stages["encode"].seconds for footer in footers)
    worked = sum(footer.totals.seconds.get(name, 0.0) for footer in footers for name in _CLIP_S)
    return min(1.0, worked / visited) if visited > 0 else 1.0
