"""How long a run takes to find out what is missing, beside an output of very many units."""

import dataclasses
import os
import tempfile
import time
from pathlib import Path
from typing import Any

from pipeline.benchmark.inputs import write_tars
from pipeline.output.units import Unit
from pipeline.run.config import RunConfig
from pipeline.run.prepare import prepare
from pipeline.sources.webdataset import WebDataset
from pipeline.support.table import Table

_SHARDS = 100


def measure(config: RunConfig, units: int) -> dict[str, Any]:
    """Seconds from a configuration to the list of missing units, of an output whose last unit is missing.

    The units' files are empty: what they hold is not looked at. Beside it, the same of an output of one unit.
    """
    with tempfile.TemporaryDirectory(prefix="trimline-") as folder:
        source = WebDataset(path=str(write_tars(Path(folder) / "in", _SHARDS, 1, _SHARDS, 32)))
        run = dataclasses.replace(config, source=source)
        few = _prepared(run, Path(folder) / "few", 0)
        return {"units": units, "seconds": _prepared(run, Path(folder) / "many", units), "start_s": few}


def _prepared(config: RunConfig, output: Path, units: int) -> float:
    options = dataclasses.replace(config.options, output=str(output), limit=None)
    config = dataclasses.replace(config, options=options)
    prepare(config)  # freezes the plan
    (output / "data").mkdir(exist_ok=True)
    each = units // _SHARDS
    for shard in range(_SHARDS):
        for number in range(each):
            last = number == each - 1
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


def table(figures: dict[str, Any]) -> Table:
    """What `measure` found."""
    return Table(
        "resume: seconds until it is known what is missing",
        ("finished units", "seconds"),
        [("0", figures["start_s"]), (f"{figures['units']:,}", figures["seconds"])],
    )
