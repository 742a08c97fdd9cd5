"""Runs `trimline benchmark NAME`: prints tables of speed and memory, and writes their figures as JSON."""

import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig

from jobs.common.arms import arm_specs, make_reducer, reducer_options
from jobs.common.build import build_fields, to_dict
from jobs.common.configs import make_config
from jobs.main import run_as_script
from pipeline.benchmark import options
from pipeline.benchmark.gpu_check.parts import PARTS
from pipeline.support.errors import ConfigError
from pipeline.support.fields import free, require

if TYPE_CHECKING:
    from pipeline.run.config import RunConfig
    from pipeline.stages.arms import Arm
    from pipeline.support.table import Table

# The options of each part, by the name of the benchmark. A part is a module of `pipeline.benchmark`; those of
# gpu_check are its own.
BENCHMARKS: dict[str, dict[str, type]] = {
    "pipeline": {
        "efficiency": options.EfficiencyOptions,
        "workers": options.WorkersOptions,
        "questions": options.QuestionsOptions,
        "overhead": options.OverheadOptions,
        "driver_memory": options.DriverMemoryOptions,
        "driver_cpu": options.DriverCpuOptions,
        "resume": options.ResumeOptions,
    },
    "demo": {"demo": options.DemoOptions},
    "reducers": {"reducers": options.ReducersOptions},
    "decode": {"decode": options.DecodeOptions},
    "end_to_end": {"end_to_end": options.EndToEndOptions},
    "gpu_check": dict.fromkeys(PARTS, options.GpuCheckOptions),
}

_ON_THE_HOST = {"overhead", "driver_memory", "driver_cpu", "resume", "decode"}  # parts that compute on no GPU


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """Holds the keys below `benchmark` that all parts share: the benchmark, its parts, and a file."""

    name: str = free("pipeline")
    parts: list[str] | None = free(None)
    json: str | None = free(None)

    def __post_init__(self) -> None:
        require(self.name in BENCHMARKS, f"benchmark.name: {self.name!r}; there is: {', '.join(BENCHMARKS)}")
        unknown = [part for part in self.parts or () if part not in BENCHMARKS[self.name]]
        require(not unknown, f"benchmark.parts: {unknown} not among {list(BENCHMARKS[self.name])}")


def run(config: DictConfig) -> int:
    """Measure, print and write the figures; returns the exit status."""
    from pipeline.benchmark.gauges import machine, show_machine
    from pipeline.models.devices import torch_device
    from pipeline.run.settle import settle
    from pipeline.support import table

    benchmark, parts = read_keys(to_dict(config.benchmark))
    run_config = settle(make_config(config))
    chosen = benchmark.parts or list(parts)
    if benchmark.name == "gpu_check":
        return _check_gpu(run_config, parts[chosen[0]], chosen, benchmark.json)
    device = torch_device(run_config.options.device)
    this_machine = machine(device if set(chosen) - _ON_THE_HOST else None)
    figures: dict[str, object] = {"machine": this_machine}
    _write(figures, benchmark.json)  # fails before the first part if the file cannot be written
    show_machine(this_machine)
    for part in chosen:
        figures[part], part_table = _measure(part, parts[part], run_config)
        table.show(part_table)
        _write(figures, benchmark.json)
    return 0


def _check_gpu(config: "RunConfig", check_options: object, chosen: list[str], file: str | None) -> int:
    from pipeline.benchmark.gpu_check.check import check

    assert isinstance(check_options, options.GpuCheckOptions)
    return check(dataclasses.replace(config, arms=_all_reducers()), check_options, chosen, file)


def read_keys(keys: dict[str, object]) -> tuple[Benchmark, dict[str, object]]:
    """Read the keys below `benchmark`; returns the options of each part of the chosen benchmark, too.

    Raises:
        ConfigError: a key is unknown or has a wrong value, even if it belongs to another benchmark.
    """
    benchmark = build_fields(_taken(keys, Benchmark), Benchmark, "benchmark")
    classes = {part: kind for parts in BENCHMARKS.values() for part, kind in parts.items()}
    known = set().union(*(_names(kind) for kind in (Benchmark, *classes.values())))
    unknown = sorted(keys.keys() - known)
    require(not unknown, f"benchmark: there is no key {', '.join(unknown)}")
    built: dict[str, object] = {
        part: build_fields(_taken(keys, kind), kind, "benchmark") for part, kind in classes.items()
    }
    return benchmark, {part: built[part] for part in BENCHMARKS[benchmark.name]}


def _names(kind: type) -> set[str]:
    return {field.name for field in dataclasses.fields(kind)}


def _taken(keys: dict[str, object], kind: type) -> dict[str, object]:
    """Select the keys that are fields of a class."""
    return {key: value for key, value in keys.items() if key in _names(kind)}


def _measure(part: str, part_options: object, config: "RunConfig") -> tuple[object, "Table"]:
    """Measure one part; returns its figures and their table."""
    if part in _ARMS:
        config = dataclasses.replace(config, arms=_ARMS[part](part_options))
    module = import_module(f"pipeline.benchmark.{part}")
    figures = module.measure(config, part_options)
    return figures, module.table(figures)


def _arms(arms: object) -> "tuple[Arm, ...]":
    """Build the arms that have the form of `arms` of compare."""
    from pipeline.stages.arms import Arm

    specs = arm_specs(arms)
    for spec in specs:
        unused = [*spec.parts, *(["budget_of"] if spec.budget_of else [])]
        require(not unused, f"benchmark: arm {spec.name} has {', '.join(unused)}, which is not measured here")
    return tuple(Arm(spec.name, *make_reducer(spec.reducer, spec.fields)) for spec in specs)


def _all_reducers() -> "tuple[Arm, ...]":
    from pipeline.stages.arms import Arm

    return tuple(Arm(name, *make_reducer(name)) for name in reducer_options())


def _demo_arms(demo: options.DemoOptions) -> "tuple[Arm, ...]":
    if not demo.demo_reducers:
        return ()
    return _arms(reducer_options() if demo.demo_reducers == ["all"] else demo.demo_reducers)


# Parts that do not measure the arm of the command line.
_ARMS: dict[str, Callable[..., "tuple[Arm, ...]"]] = {
    "reducers": lambda _: _all_reducers(),
    "end_to_end": lambda end_to_end: _arms(end_to_end.arms or ["full", "trim"]),
    "demo": _demo_arms,
}


def _write(figures: dict[str, object], file: str | None) -> None:
    try:
        if file:
            Path(file).write_text(json.dumps(figures, indent=2))
    except OSError as error:
        raise ConfigError(f"benchmark.json: {error}") from None


if __name__ == "__main__":
    run_as_script(__file__)
