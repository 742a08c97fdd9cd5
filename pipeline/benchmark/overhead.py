"""What a unit costs when it holds next to nothing: Ray's scheduling, the guard, a file."""

import dataclasses
from typing import Any

from pipeline.benchmark import driver_memory
from pipeline.run.config import RunConfig
from pipeline.support.table import Table


def measure(config: RunConfig, units: int) -> dict[str, Any]:
    """Seconds a unit of one small picture with one question, while encode and generate are stubs."""
    limits = dataclasses.replace(config.limits, unit_samples=1)
    (run,) = driver_memory.measure(dataclasses.replace(config, limits=limits), (units,), 1)["runs"]
    return {name: run[name] for name in ("units", "seconds_a_unit")}


def table(figures: dict[str, Any]) -> Table:
    """What `measure` found."""
    return Table(
        "overhead: units of one request, encode and generate are stubs",
        ("", "ms a unit"),
        [(f"{figures['units']:,} units", 1000 * figures["seconds_a_unit"])],
    )
