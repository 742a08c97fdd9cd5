"""Measures the overhead of a unit with one small request: Ray's scheduling, the guard, a file."""

import dataclasses
from typing import TypedDict

from pipeline.benchmark.driver_memory import measure_driver
from pipeline.benchmark.options import OverheadOptions
from pipeline.run.config import RunConfig
from pipeline.support.table import Table


class OverheadFigures(TypedDict):
    """Holds the number of units, and the seconds of each."""

    units: int
    seconds_a_unit: float


def measure(config: RunConfig, options: OverheadOptions) -> OverheadFigures:
    """Time units of one small picture with one question; encode and generate are stubs."""
    limits = dataclasses.replace(config.limits, unit_samples=1)
    config = dataclasses.replace(config, limits=limits)
    (run,) = measure_driver(config, [options.overhead_units], questions=1)["runs"]
    return {"units": run["units"], "seconds_a_unit": run["seconds_a_unit"]}


def table(figures: OverheadFigures) -> Table:
    """Show milliseconds a unit."""
    return Table(
        "overhead: units of one request, encode and generate are stubs",
        ("", "ms a unit"),
        [(f"{figures['units']:,} units", 1000 * figures["seconds_a_unit"])],
    )
