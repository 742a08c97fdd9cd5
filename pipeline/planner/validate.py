"""Compares forecasts with runs: makes a profile on this machine, forecasts other sizes, and runs them.

The runs are whole commands, `trimline annotate`, over tars of pictures like those of the other benchmarks.
Their seconds count from the start of the job (Ray's own start included) to the end of the last unit, as in a
forecast. The seconds of the whole command, with Python's start and end, are reported, too.
"""

import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TypedDict

from pipeline.benchmark.gauges import Machine, machine
from pipeline.benchmark.inputs import write_tars
from pipeline.models.devices import torch_device
from pipeline.planner.planner import Planning, simulator_of
from pipeline.planner.profile import read_profile
from pipeline.storage.uris import Storage
from pipeline.support.errors import RunError
from pipeline.support.table import Table
from pipeline.support.words import percent

_OF_TAR = 100  # pictures: a larger job has more tars, as data sets do
_SIDE = 200
_COMMON = ("source=webdataset", "task=vqa", "unit_samples=16", "decoding.max_new_tokens=16")


class ValidationRun(TypedDict):
    """Holds the seconds forecast and measured for one size; `error` is forecast / measured - 1."""

    requests: int
    units: int
    planned_s: float
    low_s: float
    high_s: float
    measured_s: float
    command_s: float
    error: float


class Validation(TypedDict):
    """Holds the profile's run, then one for each size."""

    machine: Machine
    runs: list[ValidationRun]


def validate(options: Planning) -> Validation:
    """Run the profile; forecast and run each size of `options.validate`.

    Raises:
        RunError: a run failed.
    """
    with tempfile.TemporaryDirectory(prefix="trimline-") as place:
        folder = Path(place)
        command_s = {"profile": _run(folder / "profile", options.validate_profile, options.validate_with)}
        profile = read_profile(str(folder / "profile" / "out"), Storage())
        simulator = simulator_of(profile, options)
        sizes = [options.validate_profile, *options.validate]
        forecasts = [simulator.forecast(size, 1) for size in sizes]
        rows: list[ValidationRun] = []
        for size, forecast in zip(sizes, forecasts, strict=True):
            name = "profile" if not rows else str(len(rows))
            if rows:
                command_s[name] = _run(folder / name, size, options.validate_with)
            measured = read_profile(str(folder / name / "out"), Storage())
            hours = forecast.hours
            rows.append(
                {
                    "requests": size,
                    "units": len(measured.footers),
                    "planned_s": hours["value"] * 3600,
                    "low_s": hours.get("low", hours["value"]) * 3600,
                    "high_s": hours.get("high", hours["value"]) * 3600,
                    "measured_s": measured.seconds,
                    "command_s": command_s[name],
                    "error": hours["value"] * 3600 / measured.seconds - 1,
                }
            )
    return {"machine": machine(torch_device(_device(options.validate_with))), "runs": rows}


def _device(keys: Sequence[str]) -> str:
    """Return the `device` among keys of annotate, or its default."""
    return next((key.partition("=")[2] for key in reversed(keys) if key.startswith("device=")), "auto")


def validation_table(figures: Validation) -> Table:
    """Show a row for each run."""
    head = figures["machine"]
    columns = ("requests", "units", "planned s", "95 %", "measured s", "planned / measured", "command s")
    rows = [
        (
            f"{run['requests']:,}" + ("" if number else ", the profile"),
            run["units"],
            run["planned_s"],
            f"{run['low_s']:.0f} to {run['high_s']:.0f}",
            run["measured_s"],
            f"{'+' if run['error'] >= 0 else ''}{percent(run['error'])}",
            run["command_s"],
        )
        for number, run in enumerate(figures["runs"])
    ]
    return Table(
        "planned and measured on this machine",
        columns,
        rows,
        (
            f"{head['processor']}, {head['cores']} cores, load {head['load']:.2f} at the end; forecasts "
            "read the profile alone",
        ),
    )


def _run(folder: Path, requests: int, overrides: Sequence[str]) -> float:
    """Run a whole command over so many pictures with one question each; returns its seconds."""
    tars = write_tars(folder / "in", requests, 1, -(-requests // _OF_TAR), _SIDE)
    arguments = [*_COMMON, *overrides, f"source.path='{tars}'", f"output='{folder / 'out'}'"]
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "jobs.main", "annotate", *arguments],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    if done.returncode:
        last_line = (done.stderr.strip().splitlines() or ["it says nothing"])[-1]
        raise RunError(f"a run of {requests} requests ended with status {done.returncode}: {last_line}")
    return time.perf_counter() - started
