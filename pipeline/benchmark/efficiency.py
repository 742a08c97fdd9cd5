"""Measures how much of a bare loop's speed the pipeline keeps.

The bare loop calls the same stage functions on the same units in one process, one after the other, with all
cores as torch threads. The pipeline is a whole run; its steady state is the time between the units that end
its first and its last tenth. Units are decoded ahead while the models load, and that work must not count for
the steady state. So each stage that a request passes in the steady state counts as that stage's share of the
bare loop's seconds.

The two take turns. Their ratio is taken round by round, since other load on the machine changes more slowly
than that; the median is the result. On a shared machine set OMP_WAIT_POLICY=PASSIVE: the bare loop's threads
then wait as the pipeline's workers do, and do not spin.
"""

import dataclasses
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, TypedDict

import pyarrow as pa

from pipeline.benchmark.inputs import write_tars
from pipeline.benchmark.options import EfficiencyOptions
from pipeline.output.footers import Footer, read_footers
from pipeline.output.units import finished_units
from pipeline.run.cluster.start import start_ray
from pipeline.run.config import RunConfig
from pipeline.run.flow import run_flow
from pipeline.run.prepare import Prepared, prepare
from pipeline.sources.task import Task
from pipeline.sources.webdataset import WebDataset
from pipeline.stages.decode import decode_unit
from pipeline.stages.encode import Encode
from pipeline.stages.generate import Generate
from pipeline.stages.read import read_shard
from pipeline.stages.rows import unpack_unit
from pipeline.support.table import SPREAD, Table, spread_cells

_TRIMMED = 0.1  # of the units at either end: fill and drain


_Stage = Callable[[pa.Table], pa.Table]


class Round(TypedDict):
    """Holds one round of the bare loop or of the pipeline."""

    units: int
    requests_per_s: float


class BareRound(Round):
    """Holds a round of the bare loop: seconds of each stage, and of all."""

    stages: dict[str, float]
    seconds: float


class PipelineRound(Round):
    """Holds a round of the pipeline: seconds of its phases."""

    ray_start_s: float
    start_and_fill_s: float
    steady_s: float
    drain_s: float


class EfficiencyFigures(TypedDict):
    """Holds all rounds; `efficiency` is the median ratio of the pipeline's rate to the bare loop's."""

    requests: int
    units: int
    bare: list[BareRound]
    pipeline: list[PipelineRound]
    bare_requests_per_s: float
    pipeline_requests_per_s: float
    efficiency_rounds: list[float]
    efficiency: float


def measure(config: RunConfig, options: EfficiencyOptions) -> EfficiencyFigures:
    """Measure requests per second of the bare loop and of the pipeline's steady state."""
    with tempfile.TemporaryDirectory(prefix="trimline-") as folder:
        source = WebDataset(path=str(write_tars(Path(folder) / "in", options.samples, 1, 4, options.side)))
        task = Task(source_questions=True)
        bare: list[BareRound] = []
        steady: list[PipelineRound] = []
        for number in range(options.rounds):
            run_options = dataclasses.replace(config.options, output=f"{folder}/out{number}", limit=None)
            run = dataclasses.replace(config, source=source, task=task, options=run_options)
            prepared = prepare(run)
            bare.append(_bare(run, prepared))
            steady.append(_pipeline(run, prepared, bare[-1]["stages"]))
    kept = [whole / loop for whole, loop in zip(_rates(steady), _rates(bare), strict=True)]
    return {
        "requests": options.samples,
        "units": steady[0]["units"],
        "bare": bare,
        "pipeline": steady,
        "bare_requests_per_s": median(_rates(bare)),
        "pipeline_requests_per_s": median(_rates(steady)),
        "efficiency_rounds": kept,
        "efficiency": median(kept),
    }


def table(figures: EfficiencyFigures) -> Table:
    """Show the rates of both, and their ratio."""
    rounds = figures["pipeline"]
    start_s = median(entry["start_and_fill_s"] for entry in rounds)
    drain_s = median(entry["drain_s"] for entry in rounds)
    return Table(
        "efficiency: requests per second",
        ("", *SPREAD),
        [
            ("bare loop", *spread_cells(_rates(figures["bare"]))),
            ("pipeline", *spread_cells(_rates(rounds))),
            ("pipeline / bare loop", *spread_cells(figures["efficiency_rounds"])),
        ],
        (
            f"{figures['requests']:,} requests in {figures['units']:,} units a round",
            f"beside the steady state: start and fill {start_s:.1f} s, drain {drain_s:.1f} s, medians; "
            f"Ray's own start {rounds[0]['ray_start_s']:.1f} s, once",
        ),
    )


def _rates(rounds: Sequence[Round]) -> list[float]:
    return [entry["requests_per_s"] for entry in rounds]


def _bare(config: RunConfig, prepared: Prepared) -> BareRound:
    """Take all units through decode, encode and generate in this process; loading models is not timed."""
    shared: dict[str, Any] = {  # arguments of two classes, each of its own type
        "geometry": prepared.geometry,
        "model": config.model,
        "arms": config.arms,
        "device": config.options.device,
        "threads": None,
    }
    encode = Encode(clip_text=config.clip_text, suffix=config.task.suffix, **shared)
    generate = Generate(
        engine=config.engine,
        decoding=config.decoding,
        seed=config.options.seed,
        prompts=config.task.prompts,
        **shared,
    )
    stages: dict[str, _Stage] = {
        "decode": partial(decode_unit, model=config.model, imaging=config.imaging),
        "encode": encode,
        "generate": generate,
    }
    first, *units = [unit for shard in prepared.pending for unit in units_of(config, prepared, shard)]
    _answer(first, stages)  # warms up
    seconds: dict[str, float] = defaultdict(float)
    requests = sum(_answer(unit, stages, seconds) for unit in units)
    return {
        "units": len(units),
        "stages": dict(seconds),
        "seconds": sum(seconds.values()),
        "requests_per_s": requests / sum(seconds.values()),
    }


def _answer(batch: pa.Table, stages: Mapping[str, _Stage], seconds: dict[str, float] | None = None) -> int:
    """Take one unit through the stages; adds up the seconds of each and returns the number of requests."""
    for name, stage in stages.items():
        started = time.perf_counter()
        batch = stage(batch)
        if seconds is not None:
            seconds[name] += time.perf_counter() - started
    return int(unpack_unit(batch).tables["requests"].num_rows)


def units_of(config: RunConfig, prepared: Prepared, shard: int) -> Iterator[pa.Table]:
    """Read a shard's units in this process."""
    return read_shard(
        prepared.source_of(config),
        prepared.plan.shard(shard, config.storage),
        storage=config.reading,
        task=config.task,
        limits=config.limits,
        finished={},
    )


@dataclass(frozen=True)
class Whole:
    """Holds a whole run: its beginning, Ray's start and its end in epoch seconds, and the units' footers."""

    began: float
    ready: float
    ended: float
    units: list[Footer]


def run_whole(config: RunConfig, prepared: Prepared) -> Whole:
    """Run the whole pipeline and read the footers of its units."""
    began = time.time()
    start_ray(config.cluster, config.options.device, dtypes=config.model.dtypes)
    ready = time.time()
    for _ in run_flow(config, prepared, attempt="benchmark"):
        pass
    ended = time.time()
    folder = prepared.states[0].folder
    units = list(read_footers(folder, finished_units(folder, config.storage), config.storage))
    return Whole(began, ready, ended, units)


def steady_span(ends: Iterable[float]) -> tuple[float, float]:
    """Cut off the first and the last tenth of the ends; returns the first and the last second between."""
    ordered = sorted(ends)
    skip = max(1, round(len(ordered) * _TRIMMED))
    return ordered[skip - 1], ordered[-skip - 1]


def _pipeline(config: RunConfig, prepared: Prepared, weights: dict[str, float]) -> PipelineRound:
    """Run the whole pipeline and split its time into start-up, fill, steady state and drain.

    A stage's work on a request counts by its share of the `weights`.
    """
    whole = run_whole(config, prepared)
    first, last = steady_span(unit.end_time for unit in whole.units)
    work = sum(
        unit.totals.rows * weight
        for unit in whole.units
        for stage, weight in weights.items()
        if first < unit.stages[stage].end <= last
    )
    return {
        "units": len(whole.units),
        "ray_start_s": whole.ready - whole.began,
        "start_and_fill_s": first - whole.ready,
        "steady_s": last - first,
        "drain_s": whole.ended - last,
        "requests_per_s": work / sum(weights.values()) / (last - first),
    }
