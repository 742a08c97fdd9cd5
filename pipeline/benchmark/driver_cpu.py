"""Measures the driver's CPU seconds for a unit by the number of actors; encode and generate are stubs.

A driver's seconds, and not the machine's cores, limit how many units a large cluster makes (planner:
driver_unit_s). Here they also depend on the cores left to it: many actors on few cores wake it up more often.
"""

import dataclasses
from typing import TypedDict

from pipeline.benchmark.driver_memory import measure_driver
from pipeline.benchmark.options import DriverCpuOptions
from pipeline.run.cluster.booked import ActorResources
from pipeline.run.cluster.resources import Cluster
from pipeline.run.config import RunConfig
from pipeline.support.table import Table

_SAMPLES = 4  # of a unit


class ActorsRun(TypedDict):
    """Holds the figures of one number of actors; `driver_cpu_s`: CPU seconds of the driver for each unit."""

    actors: int
    units: int
    units_per_s: float
    driver_cpu_s: float


class DriverCpuFigures(TypedDict):
    """Holds the runs; `ratio` is the CPU of a unit in the last run to that in the first."""

    runs: list[ActorsRun]
    ratio: float


def measure(config: RunConfig, options: DriverCpuOptions) -> DriverCpuFigures:
    """Run units of four small pictures with each number of actors, four language models to a CLIP."""
    limits = dataclasses.replace(config.limits, unit_samples=_SAMPLES)
    runs: list[ActorsRun] = []
    for actors in options.driver_actors:
        run = dataclasses.replace(config, limits=limits, cluster=_cluster(actors))
        (figures,) = measure_driver(run, [_SAMPLES * options.driver_units], questions=1)["runs"]
        runs.append(
            {
                "actors": actors,
                "units": figures["units"],
                "units_per_s": 1 / figures["seconds_a_unit"],
                "driver_cpu_s": figures["driver_cpu_s"],
            }
        )
    return {"runs": runs, "ratio": runs[-1]["driver_cpu_s"] / runs[0]["driver_cpu_s"]}


def _cluster(actors: int) -> Cluster:
    """Make a local cluster that has room for so many actors, whatever the cores of this machine."""
    clips = max(1, actors // 5)
    return Cluster(
        num_cpus=max(4, actors),
        encode=ActorResources(num_cpus=0.3, num_gpus=0.0, num_actors=clips),
        generate=ActorResources(num_cpus=0.4, num_gpus=0.0, num_actors=actors - clips),
    )


def table(figures: DriverCpuFigures) -> Table:
    """Show a row for each number of actors."""
    return Table(
        "driver: CPU by the number of actors, which are stubs",
        ("", "units", "units a second", "CPU ms of the driver"),
        [
            (f"{run['actors']} actors", run["units"], run["units_per_s"], 1000 * run["driver_cpu_s"])
            for run in figures["runs"]
        ],
        (f"the last takes {figures['ratio']:.2f} times the CPU of the first; all after the start",),
    )
