"""Reads a profile: the times of the job that made an output.

If the job was started several times, the start that made the most units is profiled. V units, S stages.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.output.footers import Footer
from pipeline.output.manifest import Manifest, rebuild
from pipeline.output.opened import open_output
from pipeline.planner.contention import without_contention
from pipeline.planner.gpus import Gpus, gpus_of
from pipeline.planner.simulate import Station, Worker
from pipeline.planner.timeline import ACTORS, STAGES, Timeline, timeline_of
from pipeline.run.cluster.booked import ActorResources, TaskResources
from pipeline.run.cluster.resources import Cluster
from pipeline.storage.uris import Storage
from pipeline.support.errors import ConfigError

_FEWEST = 4  # units; fewer have no steady state


@dataclass(frozen=True)
class Profile:
    """Holds one worker, and the times of its units.

    Args:
        worker: its stations with the seconds at which their servers were up; their room is not limited.
        requests_V: requests of each unit.
        alone_VS: seconds of each unit at each stage without contention for cores.
        handover: for each stage, samples of the seconds between a free server and its next unit's work.
        warm_V: False for the first unit of a process after the start.
        seconds: from the job's start to the last unit's end.
        gpus: of a worker.
        footers: those of the profiled start.
        everything: the footers of all units.
    """

    worker: Worker
    requests_V: NDArray[np.float64]
    alone_VS: NDArray[np.float64]
    handover: tuple[NDArray[np.float64], ...]
    warm_V: NDArray[np.bool_]
    seconds: float
    gpus: int
    manifest: Manifest
    cluster: Cluster
    footers: tuple[Footer, ...]
    everything: tuple[Footer, ...]

    @property
    def requests_per_unit(self) -> float:
        """The mean number of requests of a unit."""
        return float(self.requests_V.mean())


def read_profile(folder: str, storage: Storage) -> Profile:
    """Read the profile of an output of `annotate`, finished or not.

    Raises:
        ConfigError: there is no such output, or it lacks units or figures.
    """
    name = storage.redact(folder)
    output = open_output(folder, storage, key="profile")
    manifest = output.manifest
    if "arms" in manifest.configuration:
        raise ConfigError(
            f"profile: {name} is an arm of a comparison, whose stages worked for all of its arms"
        )
    try:
        with storage.reaching("profile", folder):
            everything = tuple(output.footers())
    except pa.ArrowException:
        raise ConfigError(f"profile: a file of {name} is damaged; `trimline verify` tells which") from None
    footers = _of_one_start(everything)
    if len(footers) < _FEWEST:
        raise ConfigError(
            f"profile: {name} has {len(footers)} units of one start, fewer than {_FEWEST}: let it go on, or "
            "make one with smaller units (unit_samples)"
        )
    with manifest.explaining_errors(folder, storage) as settings:
        cluster = _cluster(settings["cluster"], footers)
        at_once = int(settings["engine"].get("units_at_once", 1))
    try:
        timeline, cores = timeline_of(footers), _cores(footers)
        gpus = gpus_of(footers, cluster, at_once)
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(
            f"profile: {name} was not made by `trimline annotate` of this version: its files lack "
            f"{error}; make a new one"
        ) from None
    actors = {stage: getattr(cluster, stage).num_actors for stage in ACTORS}
    servers = [
        max(timeline.at_once(place), actors.get(stage, 1) * (at_once if stage == "generate" else 1))
        for place, stage in enumerate(STAGES)
    ]
    return _profile(timeline, servers, cores, gpus, manifest, cluster, footers, everything)


def _profile(
    timeline: Timeline,
    servers: Sequence[int],
    cores: int,
    gpus: Gpus,
    manifest: Manifest,
    cluster: Cluster,
    footers: tuple[Footer, ...],
    everything: tuple[Footer, ...],
) -> Profile:
    loading = tuple(timeline.loading())
    on_gpu = [gpus.demand.get(stage, 0.0) for stage in STAGES]
    alone_VS, demand_S = without_contention(
        timeline.start_VS, timeline.end_VS, timeline.cpu_VS, cores, loading, gpus.count, on_gpu
    )
    stations = tuple(
        Station(
            stage,
            _ready(timeline, place, servers[place], alone_VS),
            float(demand_S[place]),
            gpu_demand=on_gpu[place],
        )
        for place, stage in enumerate(STAGES)
    )
    starting = [timeline.starting(place, servers[place]) for place in range(len(STAGES))]
    ordered = sorted(footers, key=lambda footer: footer.end_time)
    return Profile(
        worker=Worker(stations, float(cores), loading, gpus.count),
        requests_V=np.array([footer.totals.rows for footer in ordered], float),
        alone_VS=alone_VS,
        handover=tuple(timeline.handovers(place, servers[place]) for place in range(len(STAGES))),
        warm_V=~np.any(starting, axis=0),
        seconds=ordered[-1].end_time - float(ordered[-1].attempt),
        gpus=gpus.count,
        manifest=manifest,
        cluster=cluster,
        footers=tuple(ordered),
        everything=everything,
    )


def _ready(timeline: Timeline, place: int, servers: int, alone_VS: NDArray[np.float64]) -> tuple[float, ...]:
    """Estimate when each server was up: its process's first unit, plus what this unit took more than usual.

    A server whose process had no unit counts as up together with the last one.
    """
    first = timeline.first[:, place]
    typical = float(np.median(alone_VS[:, place]))
    extra = np.maximum(0.0, alone_VS[first, place] - typical)
    ready = sorted((timeline.start_VS[first, place] + extra).tolist())
    if STAGES[place] in ACTORS:  # an actor may have several units under way
        ready = sorted(ready * math.ceil(servers / len(ready)))
    return tuple((ready + ready[-1:] * servers)[:servers])


def _of_one_start(footers: Iterable[Footer]) -> tuple[Footer, ...]:
    """Select the footers of the start that made the most units."""
    starts: dict[str, list[Footer]] = defaultdict(list)
    for footer in footers:
        starts[footer.attempt].append(footer)
    longest = max(starts, key=lambda attempt: len(starts[attempt]), default=None)
    return tuple(starts[longest]) if longest is not None else ()


def _cluster(settings: Mapping[str, Any], footers: Sequence[Footer]) -> Cluster:
    """Rebuild the configured cluster; an open number of actors becomes the number in the footers."""
    parts = {name: _resources(name, value) for name, value in settings.items()}
    # any address but "local", which would check that the cluster fits this machine
    cluster: Cluster = rebuild({**parts, "address": "profiled"}, Cluster)
    unset = [stage for stage in ACTORS if getattr(cluster, stage).num_actors is None]
    seen = {stage: replace(getattr(cluster, stage), num_actors=_processes(footers, stage)) for stage in unset}
    return replace(cluster, **seen)


def _resources(name: str, value: Any) -> Any:  # JSON of run.json
    """Rebuild the resources of a stage; other values stay as they are."""
    if name not in STAGES:
        return value
    return rebuild(value, ActorResources if name in ACTORS else TaskResources)


def _processes(footers: Sequence[Footer], stage: str) -> int:
    return len({unit.stages[stage].process for unit in footers if stage in unit.stages})


def _cores(footers: Iterable[Footer]) -> int:
    """Sum the cores of all nodes that worked on units."""
    nodes = {visit.node: visit.cores for unit in footers for visit in unit.stages.values()}
    counts = [cores for cores in nodes.values() if cores is not None]
    if len(counts) < len(nodes):
        raise KeyError("cores")
    return sum(counts)
