"""The driver by the number of requests: its memory, and what a unit costs when nothing is computed for it.

Encode and generate are stubs, all else is a whole run.

Each size runs in a driver process of its own: `measure` starts them, `main` is what runs in one.
"""

import dataclasses
import json
import pickle
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipeline.benchmark.inputs import write_tars
from pipeline.run.cluster.start import start_ray
from pipeline.run.config import RunConfig
from pipeline.run.flow import run_flow
from pipeline.run.prepare import prepare
from pipeline.sources.task import Task
from pipeline.sources.webdataset import WebDataset
from pipeline.stages.rows import pack_unit, peak_memory_bytes, unpack_unit
from pipeline.support.schema import REQUESTS, TOKENS
from pipeline.support.table import Table


class StubEncode:
    """Opens a unit's requests without CLIP."""

    def __init__(self, **_: Any) -> None:
        pass

    def __call__(self, batch: pa.Table) -> pa.Table:
        """IMAGES to REQUESTS with no tokens."""
        row = unpack_unit(batch)
        requests = [
            {
                **sample,
                **question,
                "arm": 0,
                "key": f"{row.unit.shard:06d}-{sample['sample']:08d}-{number:04d}",
            }
            for sample in row.tables["images"].drop_columns(["pixels"]).to_pylist()
            for number, question in enumerate(sample["questions"])
        ]
        known = set(REQUESTS.names)
        lines = [{name: value for name, value in line.items() if name in known} for line in requests]
        tables = {"requests": pa.Table.from_pylist(lines, schema=REQUESTS), "tokens": TOKENS.empty_table()}
        return pack_unit(row.passed("encode", time.time(), tables))


class StubGenerate:
    """Passes requests on without an answer."""

    def __init__(self, **_: Any) -> None:
        pass

    def __call__(self, batch: pa.Table) -> pa.Table:
        """REQUESTS as they are."""
        row = unpack_unit(batch)
        return pack_unit(row.passed("generate", time.time(), {"requests": row.tables["requests"]}))


def measure(config: RunConfig, requests: tuple[int, ...], questions: int) -> dict[str, Any]:
    """Peak resident bytes of the driver by number of requests, and the ratio of the last to the first.

    `driver_cpu_s` are CPU seconds of the driver's process for each unit: a planner's driver_unit_s.
    """
    with tempfile.TemporaryDirectory(prefix="trimline-") as folder:
        sizes = []
        for number in requests:
            place = Path(folder) / str(number)
            source = WebDataset(path=str(write_tars(place / "in", number // questions, questions, 4, 32)))
            options = dataclasses.replace(config.options, output=str(place / "out"), limit=None)
            run = dataclasses.replace(
                config, source=source, task=Task(source_questions=True), options=options
            )
            figures = place / "figures.json"  # Ray may print at any time, until the process is gone
            subprocess.run(
                [sys.executable, "-m", "pipeline.benchmark.driver_memory", str(figures)],
                input=pickle.dumps(run),
                check=True,
            )
            sizes.append(json.loads(figures.read_text()))
    return {"runs": sizes, "ratio": sizes[-1]["peak_bytes"] / sizes[0]["peak_bytes"]}


def table(figures: dict[str, Any]) -> Table:
    """What `measure` found."""
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


def main() -> None:
    """One run, configured from stdin by the process that measures; figures go to the file that is named."""
    config: RunConfig = pickle.loads(sys.stdin.buffer.read())
    prepared = prepare(config)
    start_ray(config.cluster, config.options.device)
    rows, came = 0, []
    cpu_from = time.process_time()
    for stats in run_flow(config, prepared, "benchmark", encode=StubEncode, generate=StubGenerate):
        rows += sum(totals.rows for totals in stats.totals)
        came.append(time.perf_counter())
    figures = {
        "requests": rows,
        "units": len(came),
        "peak_bytes": peak_memory_bytes(),
        "seconds_a_unit": (came[-1] - came[0]) / max(1, len(came) - 1),  # after the start
        "driver_cpu_s": (time.process_time() - cpu_from) / len(came),
    }
    Path(sys.argv[1]).write_text(json.dumps(figures))


if __name__ == "__main__":
    main()
