"""Measures the driver's memory by the number of requests, and the time of a unit without any computation.

Encode and generate are stubs, all else is a whole run. Each size runs in a driver process of its own:
`measure_driver` starts them, and `measure_one_size` runs in each.
"""

import dataclasses
import json
import pickle
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TypedDict

import pyarrow as pa

from pipeline.benchmark.inputs import write_tars
from pipeline.benchmark.options import DriverMemoryOptions
from pipeline.run.cluster.start import start_ray
from pipeline.run.config import RunConfig
from pipeline.run.flow import run_flow
from pipeline.run.prepare import prepare
from pipeline.sources.task import Task, requests_of
from pipeline.sources.webdataset import WebDataset
from pipeline.stages.rows import pack_unit, peak_memory_bytes, unpack_unit
from pipeline.support.schema import REQUESTS, TOKENS
from pipeline.support.table import Table

_QUESTIONS = 20  # of each picture


class DriverRun(TypedDict):
    """Holds the figures of one size.

    `driver_cpu_s`: CPU seconds of the driver for each unit after the first eighth of them.
    """

    requests: int
    units: int
    peak_bytes: int
    seconds_a_unit: float
    driver_cpu_s: float


class DriverFigures(TypedDict):
    """Holds the runs; `ratio` is the memory of the last run over that of the first."""

    runs: list[DriverRun]
    ratio: float


class StubEncode:
    """Makes a unit's requests without CLIP."""

    def __init__(self, **_: object) -> None:
        pass

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Turn IMAGES into REQUESTS without tokens."""
        row = unpack_unit(batch)
        requests = [
            {**sample, **request, "arm": 0}
            for sample in row.tables["images"].drop_columns(["pixels"]).to_pylist()
            for request in requests_of(row.unit.shard, sample)
        ]
        lines = [{name: line.get(name) for name in REQUESTS.names} for line in requests]
        tables = {"requests": pa.Table.from_pylist(lines, schema=REQUESTS), "tokens": TOKENS.empty_table()}
        return pack_unit(row.passed("encode", time.time(), tables))


class StubGenerate:
    """Passes requests on without an answer."""

    def __init__(self, **_: object) -> None:
        pass

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Return REQUESTS as they are."""
        row = unpack_unit(batch)
        return pack_unit(row.passed("generate", time.time(), {"requests": row.tables["requests"]}))


def measure(config: RunConfig, options: DriverMemoryOptions) -> DriverFigures:
    """Measure the driver's peak resident memory by the number of requests."""
    limits = dataclasses.replace(config.limits, unit_samples=64, unit_requests=512)
    return measure_driver(dataclasses.replace(config, limits=limits), options.driver_requests, _QUESTIONS)


def measure_driver(config: RunConfig, requests: Sequence[int], questions: int) -> DriverFigures:
    """Run each size in a process of its own, with so many questions about each picture."""
    with tempfile.TemporaryDirectory(prefix="trimline-") as folder:
        runs: list[DriverRun] = []
        for number in requests:
            place = Path(folder) / str(number)
            source = WebDataset(path=str(write_tars(place / "in", number // questions, questions, 4, 32)))
            options = dataclasses.replace(config.options, output=str(place / "out"), limit=None)
            run = dataclasses.replace(
                config, source=source, task=Task(source_questions=True), options=options
            )
            figures = place / "figures.json"  # not stdout: Ray may print at any time until the process ends
            subprocess.run(
                [sys.executable, "-m", "pipeline.benchmark.driver_memory", str(figures)],
                input=pickle.dumps(run),
                check=True,
            )
            runs.append(json.loads(figures.read_text()))
    return {"runs": runs, "ratio": runs[-1]["peak_bytes"] / runs[0]["peak_bytes"]}


def table(figures: DriverFigures) -> Table:
    """Show a row for each size."""
    return Table(
        "driver: encode and generate are stubs",
        ("", "units", "peak MiB", "ms a unit", "CPU ms of the driver"),
        [
            (
                f"{run['requests']:,} requests",
                run["units"],
                run["peak_bytes"] / 2**20,
                1000 * run["seconds_a_unit"],
                1000 * run["driver_cpu_s"],
            )
            for run in figures["runs"]
        ],
        (f"the last takes {figures['ratio']:.3f} times the memory of the first",),
    )


def measure_one_size() -> None:
    """Measure one run: its configuration comes from stdin, the figures go to the file in argv."""
    config: RunConfig = pickle.loads(sys.stdin.buffer.read())
    prepared = prepare(config)
    start_ray(config.cluster, config.options.device, dtypes=config.model.dtypes)
    rows, times, cpu = 0, [], []
    for stats in run_flow(config, prepared, "benchmark", encode=StubEncode, generate=StubGenerate):
        rows += sum(totals.rows for totals in stats.totals)
        times.append(time.perf_counter())
        cpu.append(time.process_time())
    begun = len(cpu) // 8  # actors that start cost the driver much
    figures: DriverRun = {
        "requests": rows,
        "units": len(times),
        "peak_bytes": peak_memory_bytes(),
        "seconds_a_unit": (times[-1] - times[0]) / max(1, len(times) - 1),  # after the start
        "driver_cpu_s": (cpu[-1] - cpu[begun]) / max(1, len(cpu) - 1 - begun),
    }
    Path(sys.argv[1]).write_text(json.dumps(figures))


if __name__ == "__main__":
    measure_one_size()
