"""How much more is done by two workers of the stage that takes longest: language models on a core each."""

import dataclasses
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

from pipeline.benchmark.efficiency import run_whole, steady_span
from pipeline.benchmark.inputs import write_tars
from pipeline.run.config import RunConfig
from pipeline.run.prepare import prepare
from pipeline.sources.task import Task
from pipeline.sources.webdataset import WebDataset
from pipeline.support.table import SPREAD, Table, spread_cells

_WORKERS = (1, 2)


def measure(config: RunConfig, samples: int, side: int, rounds: int) -> dict[str, Any]:
    """Requests a second in the steady state with one actor of `generate` and with two, a thread each."""
    rates: dict[int, list[float]] = {workers: [] for workers in _WORKERS}
    with tempfile.TemporaryDirectory(prefix="trimline-") as folder:
        source = WebDataset(path=str(write_tars(Path(folder) / "in", samples, 1, 4, side)))
        for number in range(rounds):
            for workers, found in rates.items():
                options = dataclasses.replace(
                    config.options, output=f"{folder}/{number}-{workers}", limit=None
                )
                run = dataclasses.replace(
                    config,
                    source=source,
                    task=Task(source_questions=True),
                    options=options,
                    cluster=_cluster(config, workers),
                )
                found.append(_rate(run))
    ratios = [two / one for one, two in zip(*rates.values(), strict=True)]
    return {
        "requests": samples,
        "requests_per_s": rates,
        "speedup_rounds": ratios,
        "speedup": median(ratios),
    }


def table(figures: dict[str, Any]) -> Table:
    """What `measure` found."""
    rates = figures["requests_per_s"]
    return Table(
        "workers: requests per second by actors of generate, a thread each",
        ("", *SPREAD),
        [
            *((f"{workers} of them", *spread_cells(found)) for workers, found in rates.items()),
            ("2 / 1", *spread_cells(figures["speedup_rounds"])),
        ],
        (f"{figures['requests']:,} requests a round, of which the steady state counts",),
    )


def _rate(config: RunConfig) -> float:
    """Requests a second that leave `generate`, between the first tenth of the units and the last."""
    units = run_whole(config, prepare(config)).units
    first, last = steady_span(unit.stages["generate"].end for unit in units)
    done = (unit for unit in units if first < unit.stages["generate"].end <= last)
    return float(sum(unit.totals.rows for unit in done) / (last - first))


def _cluster(config: RunConfig, workers: int) -> Any:
    encode = dataclasses.replace(config.cluster.encode, num_actors=1, threads=1)
    generate = dataclasses.replace(config.cluster.generate, num_actors=workers, threads=1)
    return dataclasses.replace(config.cluster, encode=encode, generate=generate)
