"""Turns Hydra's tree into the frozen configuration of a run."""

import dataclasses
import re
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from jobs.common.build import build, build_fields, plain
from pipeline.support.errors import ConfigError

if TYPE_CHECKING:
    from pipeline.run.config import RunConfig
    from pipeline.sources.base import Source
    from pipeline.sources.task import Task
    from pipeline.storage.uris import Storage

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


_SECRETS = ("key", "secret", "token")


def make_config(config: DictConfig) -> "RunConfig":
    """The frozen configuration of a run from Hydra's tree."""
    from pipeline.models.config import Decoding, Model
    from pipeline.output.units import UnitLimits
    from pipeline.run.cluster.resources import Cluster
    from pipeline.run.config import RunConfig, RunOptions
    from pipeline.stages.arms import Arm
    from pipeline.stages.clip_text import ClipText
    from pipeline.stages.imaging import Imaging
    from pipeline.storage.uris import Storage

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
    from pipeline.demo.pictures import resolve_source
    from pipeline.sources.base import Source
    from pipeline.sources.task import Task
    from pipeline.support.cache import cache_folder

    if config.get("dataset") is None:
        source = build(config, "source")
        if not isinstance(source, Source):
            raise ConfigError(
                f"source._target_: {type(source).__name__} does not extend {Source.__module__}.Source"
            )
        return resolve_source(source), build(config, "task", Task)
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
