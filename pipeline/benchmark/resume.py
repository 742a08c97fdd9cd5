"""Measures how long a run takes to find its missing units in an output of very many."""

import dataclasses
import os
import tempfile
import time
from pathlib import Path
from typing import TypedDict

from pipeline.benchmark.inputs import write_tars
from pipeline.benchmark.options import ResumeOptions
from pipeline.output.units import Unit
from pipeline.run.config import RunConfig
from pipeline.run.prepare import prepare
from pipeline.sources.webdataset import WebDataset
from pipeline.support.table import Table

_SHARDS = 100


class ResumeFigures(TypedDict):
    """Holds the seconds for an output of `units` finished units, and for an empty one (`start_s`)."""

    units: int
    seconds: float
    start_s: float


def measure(config: RunConfig, options: ResumeOptions) -> ResumeFigures:
    """Time the way from a configuration to the list of missing units; one unit is missing.

    The units' files are empty: only their names are read.
    """
    units = options.resume_units
    with tempfile.TemporaryDirectory(prefix="trimline-") as folder:
        source = WebDataset(path=str(write_tars(Path(folder) / "in", _SHARDS, 1, _SHARDS, 32)))
        run = dataclasses.replace(config, source=source)
        start_s = _seconds(run, Path(folder) / "few", 0)
        return {"units": units, "seconds": _seconds(run, Path(folder) / "many", units), "start_s": start_s}


def _seconds(config: RunConfig, output: Path, units: int) -> float:
    """Make the files of all units but the last, then time the steps of a run before Ray starts."""
    options = dataclasses.replace(config.options, output=str(output), limit=None)
    config = dataclasses.replace(config, options=options)
    prepare(config)  # freezes the plan
    (output / "data").mkdir(exist_ok=True)
    units_per_shard = units // _SHARDS
    for shard in range(_SHARDS):
        for number in range(units_per_shard):
            last = number == units_per_shard - 1
            if not (last and shard == _SHARDS - 1):
                unit = Unit(shard, 64 * number, 64 * (number + 1), last)
                os.close(os.open(output / "data" / unit.file_name, os.O_CREAT | os.O_WRONLY))
    started = time.perf_counter()
    prepared = prepare(config)
    for shard in prepared.pending:
        prepared.missing(shard)
    seconds = time.perf_counter() - started
    assert len(prepared.pending) == (1 if units else _SHARDS)
    return seconds


def table(figures: ResumeFigures) -> Table:
    """Show both outputs."""
    return Table(
        "resume: seconds to find the missing units",
        ("finished units", "seconds"),
        [("0", figures["start_s"]), (f"{figures['units']:,}", figures["seconds"])],
    )
