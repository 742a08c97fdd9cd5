"""`trimline benchmark NAME`: tables of speed and memory, as text and JSON."""

import dataclasses
import json
import sys
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from jobs.common.arms import arm_specs, make_reducer, reducer_names
from jobs.common.build import build
from jobs.common.configs import make_config
from pipeline.models.config import DTYPES
from pipeline.support.errors import ConfigError
from pipeline.support.fields import free, require

if TYPE_CHECKING:
    from pipeline.run.config import RunConfig
    from pipeline.support.table import Table

SPLITS = ("train", "val", "test")
PARTS = {
    "pipeline": ("efficiency", "workers", "questions", "overhead", "driver_memory", "resume"),
    "demo": ("demo",),
    "reducers": ("reducers",),
    "decode": ("decode",),
    "end_to_end": ("end_to_end",),
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
    overhead_units: int = free(400)
    resume_units: int = free(100_000)
    question_images: int = free(16)
    reducer_dtype: str = free("bfloat16")
    reducer_batches: list[int] = free(default_factory=lambda: [1, 16, 64])
    decode_sides: list[int] = free(default_factory=lambda: [336, 1024, 2048, 4032])
    requests: int = free(16)
    loop_batches: list[int] = free(default_factory=lambda: [1, 8])
    arms: Any = free(None)
    demo_split: str = free("test")
    demo_pictures: int = free(200)
    demo_reducers: Any = free(None)
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
        require(
            bool(self.decode_sides) and min(self.decode_sides) >= 32,
            "benchmark.decode_sides must be at least 32 each",
        )
        require(self.requests >= 1, "benchmark.requests must be at least 1")
        batches = self.loop_batches
        require(bool(batches) and min(batches) >= 1, "benchmark.loop_batches must be at least 1 each")
        require(bool(self.driver_requests), "benchmark.driver_requests must not be empty")
        require(self.overhead_units >= 10, "benchmark.overhead_units must be at least 10")
        require(self.question_images >= 1, "benchmark.question_images must be at least 1")
        require(self.reducer_dtype in DTYPES, f"benchmark.reducer_dtype: none of {DTYPES}")


def run(config: DictConfig) -> int:
    """Measure, print and write the figures; returns the exit status."""
    from pipeline.benchmark.gauges import machine, show_machine
    from pipeline.support import table

    options: Benchmark = build(config, "benchmark", Benchmark)
    run_config = make_config(config)
    figures: dict[str, Any] = {"machine": machine()}
    _write(figures, options.json)  # a file that cannot be written is told before the first part, not after it
    show_machine(figures["machine"])
    for part in options.parts or PARTS[options.name]:
        figures[part], found = _measure(part, options, run_config)
        table.show(found)
        _write(figures, options.json)
    return 0


def _measure(part: str, options: Benchmark, config: "RunConfig") -> tuple[dict[str, Any], "Table"]:
    """A part's figures, and the table that shows them."""
    module = import_module(f"pipeline.benchmark.{part}")
    figures = _PARTS[part](module.measure, options, config)
    return figures, module.table(figures)


def _efficiency(measure: Any, options: Benchmark, config: "RunConfig") -> Any:
    return measure(config, options.samples, 1, options.side, options.rounds)


def _workers(measure: Any, options: Benchmark, config: "RunConfig") -> Any:
    return measure(config, options.samples, options.side, options.rounds)


def _questions(measure: Any, options: Benchmark, config: "RunConfig") -> Any:
    return measure(config, options.question_images, options.rounds)


def _overhead(measure: Any, options: Benchmark, config: "RunConfig") -> Any:
    return measure(config, options.overhead_units)


def _driver_memory(measure: Any, options: Benchmark, config: "RunConfig") -> Any:
    limits = dataclasses.replace(config.limits, unit_samples=64, unit_requests=512)
    return measure(dataclasses.replace(config, limits=limits), tuple(options.driver_requests), 20)


def _resume(measure: Any, options: Benchmark, config: "RunConfig") -> Any:
    return measure(config, options.resume_units)


def _decode(measure: Any, options: Benchmark, config: "RunConfig") -> Any:
    return measure(config.model, config.imaging, options.decode_sides, options.rounds)


def _reducers(measure: Any, options: Benchmark, config: "RunConfig") -> Any:
    found = {name: make_reducer(name)[0] for name in reducer_names()}
    return measure(found, options.reducer_batches, options.rounds, options.reducer_dtype)


def _demo(measure: Any, options: Benchmark, config: "RunConfig") -> Any:
    figures = measure(
        config.model,
        config.engine,
        _demo_arms(options, config),
        split=options.demo_split,
        seed=0,
        pictures=options.demo_pictures,
        progress=lambda done: print(f"\r{done} pictures", end="", file=sys.stderr, flush=True),
    )
    print(file=sys.stderr)
    return figures


def _end_to_end(measure: Any, options: Benchmark, config: "RunConfig") -> Any:
    from pipeline.benchmark.end_to_end import Job

    specs = arm_specs(options.arms or ["full", "trim"])
    arms = {spec.name: make_reducer(spec.reducer, spec.fields)[0] for spec in specs}
    job = Job(
        requests=options.requests,
        rounds=options.rounds,
        new_tokens=config.decoding.max_new_tokens,
        images_at_once=config.model.encode_batch_size,
        loop_batches=tuple(options.loop_batches),
    )
    return measure(config.model, config.engine, arms, job)


_PARTS = {
    "efficiency": _efficiency,
    "workers": _workers,
    "questions": _questions,
    "overhead": _overhead,
    "driver_memory": _driver_memory,
    "resume": _resume,
    "decode": _decode,
    "reducers": _reducers,
    "end_to_end": _end_to_end,
    "demo": _demo,
}


def _demo_arms(options: Benchmark, config: "RunConfig") -> Any:
    """The standing arms; `demo_reducers` adds others, `all` every one that may have any number of tokens."""
    from pipeline.benchmark.demo import arms_of

    standing = {"full", "trim", "random"}
    chosen = reducer_names() if options.demo_reducers == ["all"] else options.demo_reducers
    specs = arm_specs(chosen) if chosen else []
    others = {spec.name: make_reducer(spec.reducer, spec.fields)[0] for spec in specs}
    return arms_of(
        config.model, {name: others[name] for name in others if name not in standing}, options.demo_budgets
    )


def _write(figures: dict[str, Any], file: str | None) -> None:
    try:
        if file:
            Path(file).write_text(json.dumps(figures, indent=2))
    except OSError as error:
        raise ConfigError(f"benchmark.json: {error}") from None
