"""Runs the parts of the check one after the other; writes one JSON and one page after each."""

import json
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from pipeline.benchmark.gauges import Machine, machine, show_machine
from pipeline.benchmark.gpu_check.page import check_page
from pipeline.benchmark.gpu_check.parts import PARTS
from pipeline.benchmark.gpu_check.results import FAILURES, Result
from pipeline.benchmark.gpu_check.run_part import run_part
from pipeline.benchmark.options import GpuCheckOptions
from pipeline.models.devices import torch_device
from pipeline.run.config import RunConfig
from pipeline.support import table
from pipeline.support.errors import ConfigError
from pipeline.support.fields import require

_FILE = "gpu-check.json"


def check(config: RunConfig, options: GpuCheckOptions, parts: Sequence[str], file: str | None) -> int:
    """Run the parts on this machine's GPU; returns 0 if all their claims hold here, else 1.

    Args:
        parts: their names, in the order in which they run.
        file: where the figures go, the page beside it; None: gpu-check.json.

    Raises:
        ConfigError: there is no GPU, or the files cannot be written.
    """
    require(config.options.device != "cpu", "gpu_check: device=cpu, but a GPU is what is checked")
    this_machine = machine(torch_device("cuda"))
    target = Path(file or _FILE)
    results: list[Result] = []
    _write(target, this_machine, options, results)
    show_machine(this_machine)
    began = time.monotonic()
    for number, name in enumerate(parts):
        later = sum(PARTS[other].share for other in parts[number + 1 :])
        whole = sum(PARTS[other].share for other in parts)
        left = options.check_s * (1 - later / whole) - (time.monotonic() - began)
        results.append(run_part(name, config, options, max(1.0, left)))
        _show(results[-1])
        _write(target, this_machine, options, results)
    table.console().print(f"\n{target} and {target.with_suffix('.html')} have all of it")
    return int(any(result.state in FAILURES for result in results))


def _show(result: Result) -> None:
    """Print a part's claims and tables."""
    out = table.console()
    reason = f": {result.error}" if result.error else ""
    out.print(f"\n{result.part}: {result.state} after {result.seconds:.0f} s{reason}")
    if result.measured is None:
        return
    for claim in result.measured.claims:
        out.print(f"  {'holds' if claim.holds else 'DOES NOT HOLD'}: {claim.text}")
    for each in result.measured.tables:
        table.show(each)


def _write(target: Path, on: Machine, options: GpuCheckOptions, results: Sequence[Result]) -> None:
    figures = {
        "machine": on,
        "geometry": options.geometry,
        "passed": not any(result.state in FAILURES for result in results),
        "parts": {result.part: asdict(result) for result in results},
    }
    try:
        target.write_text(json.dumps(figures, indent=2))
        target.with_suffix(".html").write_text(check_page(on, options.geometry, results))
    except OSError as error:
        raise ConfigError(f"benchmark.json: {error}") from None
