"""`trimline annotate`: the main job."""

import dataclasses
import re
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from jobs.build import build, build_fields, plain
from pipeline.errors import ConfigError

if TYPE_CHECKING:
    from pipeline.run import RunConfig
    from pipeline.sources.base import Source
    from pipeline.storage import Storage
    from pipeline.tasks import Task

_GROUPS = (
    "dataset",
    "source",
    "task",
    "model",
    "reducer",
    "engine",
    "cluster",
    "storage",
    "decoding",
    "image",
    "clip_text",
    "benchmark",
    "arms",
    "compare",
    "pricing",
)
_OF_DATASET = re.compile(r"[+~]*(source|task)[=.]")
_OF_REDUCER = re.compile(r"[+~]*reducer[=.]")
_SECRETS = ("key", "secret", "token")


def run(config: DictConfig) -> int:
    """Run the job; returns the exit status."""
    from jobs.show import show_outcome
    from jobs.submit import submit
    from pipeline.run import annotate

    run_config = _as_tuned(make_config(config))
    if run_config.cluster.submit:
        return submit("annotate", HydraConfig.get().overrides.task, run_config)
    outcome = annotate(run_config)
    show_outcome(outcome, run_config.options.output)
    return outcome.status


def make_config(config: DictConfig) -> "RunConfig":
    """The frozen configuration of a run from Hydra's tree."""
    from pipeline.arms import Arm
    from pipeline.clip_text import ClipText
    from pipeline.config import Decoding, Model
    from pipeline.imaging import Imaging
    from pipeline.resources import Cluster
    from pipeline.run import RunConfig, RunOptions
    from pipeline.storage import Storage
    from pipeline.units import UnitLimits

    top = {name: value for name, value in plain(config).items() if name not in _GROUPS}
    names = {field.name for field in dataclasses.fields(UnitLimits)}
    options = {name: value for name, value in top.items() if name not in names}
    limits = {name: value for name, value in top.items() if name in names}
    reducer = plain(config.reducer)
    storage: Storage = build(config, "storage", Storage)
    source, task = _asked(config, storage)
    return RunConfig(
        options=_varied(build_fields(options, RunOptions, "")),
        limits=build_fields(limits, UnitLimits, ""),
        source=source,
        task=task,
        model=build(config, "model", Model),
        arms=(Arm(HydraConfig.get().runtime.choices["reducer"], build(config, "reducer"), reducer),),
        engine=build(config, "engine"),
        decoding=build(config, "decoding", Decoding),
        imaging=build(config, "image", Imaging),
        clip_text=build(config, "clip_text", ClipText),
        storage=storage,
        cluster=build(config, "cluster", Cluster),
        settings=_settings(config, source, task),
    )


def _as_tuned(config: "RunConfig") -> "RunConfig":
    """With the reducer that the checkpoint was tuned with, if it names one and the command line does not."""
    from jobs.arms import make_reducer
    from pipeline.arms import Arm
    from pipeline.models.reduce_func import require_counterpart, tuned_with

    tuned = tuned_with(config.model)
    if tuned is None:
        return config
    told, fields = tuned
    (arm,) = config.arms
    if any(_OF_REDUCER.match(item) for item in HydraConfig.get().overrides.task):
        if fields is None or any(arm.settings.get(name, "") != value for name, value in fields.items()):
            print(f"note: reducer={arm.name} as given, though {config.model.path} was tuned with {told}")
        return config
    reducer, settings = make_reducer("trim", require_counterpart(told, fields))
    print(f"reducer=trim with {told}, as {config.model.path} was tuned")
    return dataclasses.replace(config, arms=(Arm("trim", reducer, settings),))


def _varied(options: Any) -> Any:
    """In a sweep that does not set it, `output` is a folder per point."""
    hydra = HydraConfig.get()
    overrides = hydra.overrides.task
    if hydra.mode != RunMode.MULTIRUN or any(item.lstrip("+").startswith("output=") for item in overrides):
        return options
    point = PurePosixPath(hydra.job.override_dirname or "default")
    return dataclasses.replace(options, output=f"{options.output.rstrip('/')}/{point}")


def _asked(config: DictConfig, storage: "Storage") -> "tuple[Source, Task]":
    """The source and the task: as configured, or those of an evaluation set.

    What a set has to convert lies in the user's cache; on a cluster in the output, which all nodes see.
    """
    from pipeline.demo.names import cache_folder, resolve_source
    from pipeline.tasks import Task

    if config.get("dataset") is None:
        return resolve_source(build(config, "source")), build(config, "task", Task)
    own = [item for item in HydraConfig.get().overrides.task if _OF_DATASET.match(item)]
    if own:
        raise ConfigError(f"{own[0]}: dataset={HydraConfig.get().runtime.choices['dataset']} brings its own")
    here = config.cluster.address == "local"
    folder = str(cache_folder() / "datasets") if here else f"{config.output.rstrip('/')}/questions"
    dataset = build(config, "dataset")
    return dataset.source(folder, storage), dataset.task()


def _settings(config: DictConfig, source: Any, task: Any) -> dict[str, Any]:
    """The resolved configuration as run.json tells it: without credentials."""
    settings = plain(config)
    chosen = (("source", source), ("task", task)) if settings.get("dataset") else ()
    for name, made in chosen:
        settings[name] = {"_target_": f"{type(made).__module__}.{type(made).__qualname__}", **vars(made)}
    settings["storage"] = {name: value for name, value in settings["storage"].items() if name not in _SECRETS}
    return settings


if __name__ == "__main__":
    import sys

    from jobs.entry import command_line

    sys.exit(command_line("annotate", sys.argv[1:]))
