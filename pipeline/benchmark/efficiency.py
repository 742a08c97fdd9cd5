"""How much of a bare loop's speed the pipeline keeps.

The bare loop is one process that calls the very stage functions on the same units, one after the other, with
all cores as torch threads. The pipeline is a whole run; its steady state is the time between the units
that end its first and its last tenth. Rounds alternate, and medians are compared.
"""

import dataclasses
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

from pipeline.benchmark.load import write_tars
from pipeline.cluster import start_ray
from pipeline.flow import run_flow
from pipeline.rows import unpack
from pipeline.run import Prepared, RunConfig, prepare
from pipeline.sources.webdataset import WebDataset
from pipeline.stages.decode import decode_unit
from pipeline.stages.encode import Encode
from pipeline.stages.generate import Generate
from pipeline.stages.read import read_shard
from pipeline.tasks import Task

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
            steady.append(_pipeline(run, prepared))
    rates = [entry["requests_per_s"] for entry in bare], [entry["requests_per_s"] for entry in steady]
    return {
        "requests": samples * questions,
        "units": steady[0]["units"],
        "bare": bare,
        "pipeline": steady,
        "bare_requests_per_s": median(rates[0]),
        "pipeline_requests_per_s": median(rates[1]),
        "efficiency": median(rates[1]) / median(rates[0]),
    }


def _bare(config: RunConfig, prepared: Prepared) -> dict[str, Any]:
    """All units through decode, encode and generate in this process, its models loaded beforehand."""
    shared: dict[str, Any] = {"geometry": prepared.geometry, "model": config.model, "arms": config.arms}
    shared |= {"device": config.options.device, "threads": None}
    encode = Encode(**shared)
    generate = Generate(engine=config.engine, decoding=config.decoding, seed=config.options.seed, **shared)
    units = [unit for shard in prepared.pending for unit in _units(config, prepared, shard)]
    requests = 0
    started = time.perf_counter()
    for number, unit in enumerate(units):
        if number == 1:  # the first one warms up
            requests, started = 0, time.perf_counter()
        decoded = decode_unit(unit, checkpoint=config.model.path, imaging=config.imaging)
        requests += unpack(generate(encode(decoded))).tables["requests"].num_rows
    seconds = time.perf_counter() - started
    return {"units": len(units) - 1, "seconds": seconds, "requests_per_s": requests / seconds}


def _units(config: RunConfig, prepared: Prepared, shard: int) -> Any:
    return read_shard(
        config.source,
        prepared.plan.shard(shard, config.storage),
        storage=config.storage,
        task=config.task,
        limits=config.limits,
        finished={},
    )


def _pipeline(config: RunConfig, prepared: Prepared) -> dict[str, Any]:
    """A whole run; start-up, fill and drain are told apart from the steady state."""
    began = time.perf_counter()
    start_ray(config.cluster, config.options.device)
    ready = time.perf_counter()
    done = []
    for stats in run_flow(config, prepared, attempt="benchmark"):
        done.append((time.perf_counter(), sum(totals["rows"] for totals in stats["totals"])))
    ended = time.perf_counter()
    skip = max(1, round(len(done) * _TRIMMED))
    inner = done[skip : len(done) - skip]
    steady_s = inner[-1][0] - done[skip - 1][0]
    return {
        "units": len(done),
        "ray_start_s": ready - began,
        "start_and_fill_s": done[skip - 1][0] - ready,
        "steady_s": steady_s,
        "drain_s": ended - inner[-1][0],
        "requests_per_s": sum(rows for _, rows in inner) / steady_s,
    }
