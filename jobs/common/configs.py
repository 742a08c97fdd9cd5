"""Turns Hydra's tree into the frozen configuration of a run."""

import dataclasses
import re
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from jobs.common.build import Tree, build, build_fields, build_target, to_dict
from jobs.common.credentials import settings_without_credentials, shown_settings
from jobs.common.escapes import without_breaks
from jobs.common.storages import source_storage
from pipeline.support.errors import ConfigError

if TYPE_CHECKING:
    from pipeline.run.config import RunConfig, RunOptions
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
    "source_storage",
    "decoding",
    "image",
    "clip_text",
    "benchmark",
    "arms",
    "compare",
    "pricing",
)
_SOURCE_OR_TASK = re.compile(r"[+~]*(source|task)[=.](?!follow_links=)")


def make_config(config: DictConfig) -> "RunConfig":
    """Build the frozen configuration of a run from Hydra's tree."""
    from pipeline.models.config import Decoding, Model
    from pipeline.output.units import UnitLimits
    from pipeline.run.cluster.resources import Cluster
    from pipeline.run.config import RunConfig, RunOptions
    from pipeline.stages.arms import Arm
    from pipeline.stages.clip_text import ClipText
    from pipeline.stages.imaging import Imaging
    from pipeline.storage.uris import Storage

    top = {name: value for name, value in to_dict(config).items() if name not in _GROUPS}
    names = {field.name for field in dataclasses.fields(UnitLimits)}
    options = {name: value for name, value in top.items() if name not in names}
    limits = {name: value for name, value in top.items() if name in names}
    reducer = shown_settings(config.reducer)
    storage = build(config, "storage", Storage)
    reading = source_storage(config, storage)
    source, task = _source_and_task(config, storage, reading)
    return RunConfig(
        options=_with_sweep_folder(build_fields(options, RunOptions, "")),
        limits=build_fields(limits, UnitLimits, ""),
        source=source,
        task=task,
        model=build(config, "model", Model),
        arms=(Arm(HydraConfig.get().runtime.choices["reducer"], build_target(config, "reducer"), reducer),),
        engine=build_target(config, "engine"),
        decoding=build(config, "decoding", Decoding),
        imaging=build(config, "image", Imaging),
        clip_text=build(config, "clip_text", ClipText),
        storage=storage,
        source_storage=reading,
        cluster=build(config, "cluster", Cluster),
        settings=_settings(config, source, task),
    )


def _with_sweep_folder(options: "RunOptions") -> "RunOptions":
    """Give each point of a sweep an output folder of its own, unless the command line sets `output`."""
    hydra = HydraConfig.get()
    overrides = hydra.overrides.task
    if hydra.mode != RunMode.MULTIRUN or any(item.lstrip("+").startswith("output=") for item in overrides):
        return options
    point = PurePosixPath(without_breaks(hydra.job.override_dirname) or "default")
    return dataclasses.replace(options, output=f"{options.output.rstrip('/')}/{point}")


def _source_and_task(config: DictConfig, storage: "Storage", reading: "Storage") -> "tuple[Source, Task]":
    """Make the source and the task: those configured, or those of an evaluation set.

    A set's converted questions go into the user's cache; on a cluster into the output, which all nodes see.
    """
    from pipeline.demo.pictures import resolve_source
    from pipeline.output.layout import QUESTIONS
    from pipeline.output.own_folder import require_own_folder
    from pipeline.sources.base import Source
    from pipeline.sources.task import Task
    from pipeline.storage.paths import parts_of
    from pipeline.support.cache import private_cache

    if config.get("dataset") is None:
        source = build_target(config, "source")
        if not isinstance(source, Source):
            raise ConfigError(
                f"source._target_: {type(source).__name__} does not extend {Source.__module__}.Source"
            )
        parts_of(source.path)
        return resolve_source(source), build(config, "task", Task)
    overrides = [item for item in HydraConfig.get().overrides.task if _SOURCE_OR_TASK.match(item)]
    if overrides:
        raise ConfigError(
            f"{overrides[0]}: dataset={HydraConfig.get().runtime.choices['dataset']} brings its own"
        )
    is_local = config.cluster.address == "local"
    folder = str(private_cache() / "datasets") if is_local else f"{config.output.rstrip('/')}/{QUESTIONS}"
    if not is_local:
        require_own_folder(config.output, storage, holds_arms=True)
    if "://" in folder and reading != storage:
        raise ConfigError(
            "source_storage: on a cluster a dataset's questions are read from the output: "
            "leave source_storage out"
        )
    dataset = build_target(config, "dataset")
    source = dataset.source(folder, reading)
    return dataclasses.replace(source, follow_links=config.source.follow_links), dataset.task()


def _settings(config: DictConfig, source: "Source", task: "Task") -> Tree:
    """Resolve the configuration for run.json, without credentials."""
    settings = to_dict(config)
    settings["slice"] = None  # all slices have one run.json
    chosen = (("source", source), ("task", task)) if settings.get("dataset") else ()
    for name, made in chosen:
        settings[name] = {"_target_": f"{type(made).__module__}.{type(made).__qualname__}", **vars(made)}
    return settings_without_credentials(settings)
