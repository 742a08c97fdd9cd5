"""Measures the throughput with one and with two `generate` actors, each on one core or one GPU."""

import dataclasses
import tempfile
from pathlib import Path
from statistics import median
from typing import TypedDict

import torch

from pipeline.benchmark.efficiency import run_whole, steady_span
from pipeline.benchmark.inputs import write_tars
from pipeline.benchmark.options import WorkersOptions
from pipeline.models.devices import torch_device
from pipeline.run.cluster.resources import Cluster
from pipeline.run.config import RunConfig
from pipeline.run.prepare import prepare
from pipeline.sources.task import Task
from pipeline.sources.webdataset import WebDataset
from pipeline.support.fields import require
from pipeline.support.table import SPREAD, Table, spread_cells

_WORKERS = (1, 2)


class WorkersFigures(TypedDict):
    """Holds the requests a second by the number of actors, and the speedup of two, round by round."""

    requests: int
    requests_per_s: dict[int, list[float]]
    speedup_rounds: list[float]
    speedup: float


def measure(config: RunConfig, options: WorkersOptions) -> WorkersFigures:
    """Measure requests a second in the steady state, with one thread for each actor.

    Raises:
        ConfigError: the run uses GPUs, and there are not two.
    """
    _require_gpus(config)
    rates: dict[int, list[float]] = {workers: [] for workers in _WORKERS}
    with tempfile.TemporaryDirectory(prefix="trimline-") as folder:
        source = WebDataset(path=str(write_tars(Path(folder) / "in", options.samples, 1, 4, options.side)))
        for number in range(options.rounds):
            for workers, rounds in rates.items():
                run_options = dataclasses.replace(
                    config.options, output=f"{folder}/{number}-{workers}", limit=None
                )
                run = dataclasses.replace(
                    config,
                    source=source,
                    task=Task(source_questions=True),
                    options=run_options,
                    cluster=_cluster(config, workers),
                )
                rounds.append(_rate(run))
    ratios = [two / one for one, two in zip(*rates.values(), strict=True)]
    return {
        "requests": options.samples,
        "requests_per_s": rates,
        "speedup_rounds": ratios,
        "speedup": median(ratios),
    }


def table(figures: WorkersFigures) -> Table:
    """Show each number of actors, and the speedup."""
    rates = figures["requests_per_s"]
    return Table(
        "workers: requests per second by actors of generate, a thread each",
        ("", *SPREAD),
        [
            *((f"{workers} of them", *spread_cells(rounds)) for workers, rounds in rates.items()),
            ("2 / 1", *spread_cells(figures["speedup_rounds"])),
        ],
        (f"{figures['requests']:,} requests a round, of which the steady state counts",),
    )


def _require_gpus(config: RunConfig) -> None:
    if torch_device(config.options.device).type == "cuda":
        there = config.cluster.num_gpus
        require(
            (torch.cuda.device_count() if there is None else there) >= max(_WORKERS),
            "benchmark.parts: workers needs two GPUs, or device=cpu; name the other parts alone",
        )


def _rate(config: RunConfig) -> float:
    """Measure the requests a second that leave `generate` in the steady state of one run."""
    units = run_whole(config, prepare(config)).units
    first, last = steady_span(unit.stages["generate"].end for unit in units)
    done = (unit for unit in units if first < unit.stages["generate"].end <= last)
    return float(sum(unit.totals.rows for unit in done) / (last - first))


def _cluster(config: RunConfig, workers: int) -> Cluster:
    encode = dataclasses.replace(config.cluster.encode, num_actors=1, threads=1)
    generate = dataclasses.replace(config.cluster.generate, num_actors=workers, threads=1)
    return dataclasses.replace(config.cluster, encode=encode, generate=generate)
