"""`trimline benchmark NAME`: tables of speed and memory, as text and JSON."""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table

from jobs.annotate import make_config
from jobs.build import build
from pipeline.config import free, require

if TYPE_CHECKING:
    from pipeline.run import RunConfig

PARTS = ("efficiency", "driver_memory", "reduction")


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """What is measured, and how much of it."""

    name: str = free("pipeline")
    parts: list[str] = free(default_factory=lambda: list(PARTS))
    json: str | None = free(None)
    samples: int = free(640)
    side: int = free(200)
    rounds: int = free(2)
    driver_requests: list[int] = free(default_factory=lambda: [5000, 100000])
    reduction_images: int = free(64)
    reduction_dtype: str = free("bfloat16")

    def __post_init__(self) -> None:
        require(self.name == "pipeline", f"benchmark.name: {self.name!r}; there is: pipeline")
        unknown = [part for part in self.parts if part not in PARTS]
        require(not unknown, f"benchmark.parts: {unknown} not among {list(PARTS)}")


def run(config: DictConfig) -> int:
    """Measure, print and write the figures; returns the exit status."""
    from pipeline.benchmark.machine import machine

    options: Benchmark = build(config, "benchmark", Benchmark)
    run_config = make_config(config)
    figures: dict[str, Any] = {"machine": machine()}
    for part in options.parts:
        figures[part] = _measure(part, options, run_config)
        _show(part, figures[part])
    if options.json:
        Path(options.json).write_text(json.dumps(figures, indent=2))
    return 0


def _measure(part: str, options: Benchmark, config: "RunConfig") -> dict[str, Any]:
    from pipeline.benchmark import driver_memory, efficiency, reduction

    if part == "efficiency":
        return efficiency.measure(config, options.samples, 1, options.side, options.rounds)
    if part == "driver_memory":
        limits = dataclasses.replace(config.limits, unit_samples=64, unit_requests=512)
        stubbed = dataclasses.replace(config, limits=limits)
        return driver_memory.measure(stubbed, tuple(options.driver_requests), 20)
    return reduction.measure(options.reduction_images, 16, 1, options.reduction_dtype)


def _show(part: str, figures: dict[str, Any]) -> None:
    table = Table(title=part.replace("_", " "), show_header=False, box=None, title_justify="left")
    for name, value in figures.items():
        for place, entry in enumerate(value if isinstance(value, list) else [value]):
            label = f"{name} {place + 1}" if isinstance(value, list) else name
            table.add_row(label, _text(entry))
    Console(highlight=False, soft_wrap=True).print(table)


def _text(entry: Any) -> str:
    if isinstance(entry, dict):
        return ", ".join(f"{name} {_text(value)}" for name, value in entry.items())
    return f"{entry:.4g}" if isinstance(entry, float) else str(entry)
