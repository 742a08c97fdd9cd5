"""How much of a bare loop's speed the pipeline keeps.

The bare loop is one process that calls the very stage functions on the same units, one after the other, with
all cores as torch threads. The pipeline is a whole run; its steady state is the time between the units
that end its first and its last tenth. While the models load, units are decoded ahead: what a stage did before
the steady state must not count for it. So a request counts as the stages that it went through in
that time, each at its share of the bare loop's seconds.

The two take turns; what the pipeline keeps is told round by round, since what else happens on the machine
changes more slowly than that, and its median is the result. On a machine that others use, too,
OMP_WAIT_POLICY=PASSIVE makes the bare loop wait as the pipeline's workers do, and not spin.
"""

import dataclasses
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from pipeline.benchmark.inputs import write_tars
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


def measure(config: RunConfig, samples: int, questions: int, side: int, rounds: int) -> dict[str, Any]:
    """Requests per second of the bare loop and of the pipeline's steady state, round by round."""
    with tempfile.TemporaryDirectory(prefix="trimline-") as folder:
        source = WebDataset(path=str(write_tars(Path(folder) / "in", samples, questions, 4, side)))
        task = Task(source_questions=True)
        bare, steady = [], []
        for number in range(rounds):
            options = dataclasses.replace(config.options, output=f"{folder}/out{number}", limit=None)
            run = dataclasses.replace(config, source=source, task=task, options=options)
            prepared = prepare(run)
            bare.append(_bare(run, prepared))
            steady.append(_pipeline(run, prepared, bare[-1]["stages"]))
    kept = [now / alone for now, alone in zip(_rates(steady), _rates(bare), strict=True)]
    return {
        "requests": samples * questions,
        "units": steady[0]["units"],
        "bare": bare,
        "pipeline": steady,
        "bare_requests_per_s": median(_rates(bare)),
        "pipeline_requests_per_s": median(_rates(steady)),
        "efficiency_rounds": kept,
        "efficiency": median(kept),
    }


def table(figures: dict[str, Any]) -> Table:
    """What `measure` found."""
    rounds = figures["pipeline"]
    around = [median(entry[name] for entry in rounds) for name in ("start_and_fill_s", "drain_s")]
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
            f"beside the steady state: start and fill {around[0]:.1f} s, drain {around[1]:.1f} s, medians; "
            f"Ray's own start {rounds[0]['ray_start_s']:.1f} s, once",
        ),
    )


def _rates(rounds: list[dict[str, Any]]) -> list[float]:
    return [entry["requests_per_s"] for entry in rounds]


def _bare(config: RunConfig, prepared: Prepared) -> dict[str, Any]:
    """All units through decode, encode and generate in this process, its models loaded beforehand."""
    shared: dict[str, Any] = {"geometry": prepared.geometry, "model": config.model, "arms": config.arms}
    shared |= {"device": config.options.device, "threads": None}
    encode = Encode(clip_text=config.clip_text, suffix=config.task.suffix, **shared)
    generate = Generate(engine=config.engine, decoding=config.decoding, seed=config.options.seed, **shared)
    stages = {
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


def _answer(batch: Any, stages: dict[str, Any], seconds: dict[str, float] | None = None) -> int:
    """One unit through the stages; adds up the seconds of each and returns the number of requests."""
    for name, stage in stages.items():
        started = time.perf_counter()
        batch = stage(batch)
        if seconds is not None:
            seconds[name] += time.perf_counter() - started
    return int(unpack_unit(batch).tables["requests"].num_rows)


def units_of(config: RunConfig, prepared: Prepared, shard: int) -> Any:
    """A shard's units, read in this process."""
    return read_shard(
        config.source,
        prepared.plan.shard(shard, config.storage),
        storage=config.storage,
        task=config.task,
        limits=config.limits,
        finished={},
    )


@dataclass(frozen=True)
class Whole:
    """A whole run: times of the clock, and the units' footers."""

    began: float
    ready: float  # Ray was there
    ended: float
    units: list[Footer]


def run_whole(config: RunConfig, prepared: Prepared) -> Whole:
    """Run all of it."""
    began = time.time()
    start_ray(config.cluster, config.options.device)
    ready = time.time()
    for _ in run_flow(config, prepared, attempt="benchmark"):
        pass
    ended = time.time()
    folder = prepared.states[0].folder
    units = list(read_footers(folder, finished_units(folder, config.storage), config.storage))
    return Whole(began, ready, ended, units)


def steady_span(ends: Iterable[float]) -> tuple[float, float]:
    """From the end of the unit that ends the first tenth to that of the one before the last tenth."""
    ordered = sorted(ends)
    skip = max(1, round(len(ordered) * _TRIMMED))
    return ordered[skip - 1], ordered[-skip - 1]


def _pipeline(config: RunConfig, prepared: Prepared, weights: dict[str, float]) -> dict[str, Any]:
    """A whole run; start-up, fill and drain are told apart from the steady state.

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
