"""`trimline benchmark NAME`: tables of speed and memory, as text and JSON."""

import dataclasses
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from jobs.annotate import make_config
from jobs.arms import make_reducer, reducer_names
from jobs.build import build
from pipeline.config import free, require
from pipeline.errors import ConfigError

if TYPE_CHECKING:
    from pipeline.benchmark.table import Table
    from pipeline.run import RunConfig

SPLITS = ("train", "val", "test")
PARTS = {
    "pipeline": ("efficiency", "driver_memory", "reduction", "resume"),
    "demo": ("demo",),
    "reducers": ("reducers",),
}


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """What is measured, and how much of it."""

    name: str = free("pipeline")
    parts: list[str] | None = free(None)
    json: str | None = free(None)
    samples: int = free(640)
    side: int = free(200)
    rounds: int = free(4)
    driver_requests: list[int] = free(default_factory=lambda: [5000, 100000])
    resume_units: int = free(100_000)
    reduction_images: int = free(64)
    reduction_dtype: str = free("bfloat16")
    reducer_batches: list[int] = free(default_factory=lambda: [1, 16, 64])
    demo_split: str = free("test")
    demo_pictures: int = free(200)
    demo_reducers: list[str] = free(default_factory=list)
    demo_budgets: list[int] = free(default_factory=list)

    def __post_init__(self) -> None:
        require(self.name in PARTS, f"benchmark.name: {self.name!r}; there is: {', '.join(PARTS)}")
        unknown = [part for part in self.parts or () if part not in PARTS[self.name]]
        require(not unknown, f"benchmark.parts: {unknown} not among {list(PARTS[self.name])}")
        require(
            self.demo_split in SPLITS, f"benchmark.demo_split: {self.demo_split!r} not among {list(SPLITS)}"
        )
        require(
            all(number >= 1 for number in self.demo_budgets), "benchmark.demo_budgets must be at least 1 each"
        )
        require(self.demo_pictures >= 1, "benchmark.demo_pictures must be at least 1")
        require(self.rounds >= 1, "benchmark.rounds must be at least 1")
        require(self.samples >= 4, "benchmark.samples must be at least 4: a steady state needs some units")
        batches = self.reducer_batches
        require(bool(batches) and min(batches) >= 1, "benchmark.reducer_batches must be at least 1 each")
        require(self.resume_units >= 100, "benchmark.resume_units must be at least 100")
        require(bool(self.driver_requests), "benchmark.driver_requests must not be empty")
        require(self.reduction_images >= 1, "benchmark.reduction_images must be at least 1")


def run(config: DictConfig) -> int:
    """Measure, print and write the figures; returns the exit status."""
    from pipeline.benchmark import table
    from pipeline.benchmark.machine import machine

    options: Benchmark = build(config, "benchmark", Benchmark)
    run_config = make_config(config)
    figures: dict[str, Any] = {"machine": machine()}
    _write(figures, options.json)  # a file that cannot be written is told before the first part, not after it
    table.show_machine(figures["machine"])
    for part in options.parts or PARTS[options.name]:
        figures[part], found = _measure(part, options, run_config)
        table.show(found)
        _write(figures, options.json)
    return 0


def _measure(part: str, options: Benchmark, config: "RunConfig") -> tuple[dict[str, Any], "Table"]:
    """A part's figures, and the table that shows them."""
    from pipeline.benchmark import demo, driver_memory, efficiency, reducers, reduction, resume

    if part == "reducers":
        found = {name: make_reducer(name)[0] for name in reducer_names()}
        figures = reducers.measure(found, options.reducer_batches, options.rounds, options.reduction_dtype)
        return figures, reducers.table(figures)
    if part == "demo":
        figures = demo.measure(
            config.model,
            config.engine,
            _demo_arms(options, config),
            split=options.demo_split,
            seed=0,
            pictures=options.demo_pictures,
            progress=lambda done: print(f"\r{done} pictures", end="", file=sys.stderr, flush=True),
        )
        print(file=sys.stderr)
        return figures, demo.table(figures)
    if part == "efficiency":
        figures = efficiency.measure(config, options.samples, 1, options.side, options.rounds)
        return figures, efficiency.table(figures)
    if part == "driver_memory":
        limits = dataclasses.replace(config.limits, unit_samples=64, unit_requests=512)
        stubbed = dataclasses.replace(config, limits=limits)
        figures = driver_memory.measure(stubbed, tuple(options.driver_requests), 20)
        return figures, driver_memory.table(figures)
    if part == "resume":
        figures = resume.measure(config, options.resume_units)
        return figures, resume.table(figures)
    figures = reduction.measure(options.reduction_images, 16, 1, options.reduction_dtype)
    return figures, reduction.table(figures)


def _demo_arms(options: Benchmark, config: "RunConfig") -> Any:
    """The standing arms; `demo_reducers` adds others, `all` every one that may have any number of tokens."""
    from pipeline.benchmark.demo import arms_of

    standing = {"full", "trim", "random"}
    chosen = reducer_names() if options.demo_reducers == ["all"] else options.demo_reducers
    others = {name: make_reducer(name)[0] for name in chosen if name not in standing}
    return arms_of(config.model, others, options.demo_budgets)


def _write(figures: dict[str, Any], file: str | None) -> None:
    try:
        if file:
            Path(file).write_text(json.dumps(figures, indent=2))
    except OSError as error:
        raise ConfigError(f"benchmark.json: {error}") from None
