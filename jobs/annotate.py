"""`trimline annotate`: the main job."""

import dataclasses
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from jobs.build import build, build_fields

if TYPE_CHECKING:
    from pipeline.run import RunConfig

_GROUPS = (
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
)
_SECRETS = ("key", "secret", "token")


def run(config: DictConfig) -> int:
    """Run the job; returns the exit status."""
    from jobs.show import show_outcome
    from pipeline.run import annotate

    run_config = make_config(config)
    outcome = annotate(run_config)
    show_outcome(outcome, run_config.options.output)
    return outcome.status


def make_config(config: DictConfig) -> "RunConfig":
    """The frozen configuration of a run from Hydra's tree."""
    from pipeline.arms import Arm
    from pipeline.clip_text import ClipText
    from pipeline.cluster import Cluster
    from pipeline.config import Decoding, Model
    from pipeline.demo.names import resolve_source
    from pipeline.imaging import Imaging
    from pipeline.run import RunConfig, RunOptions
    from pipeline.storage import Storage
    from pipeline.tasks import Task
    from pipeline.units import UnitLimits

    top = {name: value for name, value in _plain(config).items() if name not in _GROUPS}
    names = {field.name for field in dataclasses.fields(UnitLimits)}
    options = {name: value for name, value in top.items() if name not in names}
    limits = {name: value for name, value in top.items() if name in names}
    reducer = _plain(config.reducer)
    return RunConfig(
        options=_varied(build_fields(options, RunOptions, "")),
        limits=build_fields(limits, UnitLimits, ""),
        source=resolve_source(build(config, "source")),
        task=build(config, "task", Task),
        model=build(config, "model", Model),
        arms=(Arm(HydraConfig.get().runtime.choices["reducer"], build(config, "reducer"), reducer),),
        engine=build(config, "engine"),
        decoding=build(config, "decoding", Decoding),
        imaging=build(config, "image", Imaging),
        clip_text=build(config, "clip_text", ClipText),
        storage=build(config, "storage", Storage),
        cluster=build(config, "cluster", Cluster),
        settings=_settings(config),
    )


def _varied(options: Any) -> Any:
    """In a sweep that does not set it, `output` is a folder per point."""
    hydra = HydraConfig.get()
    overrides = hydra.overrides.task
    if hydra.mode != RunMode.MULTIRUN or any(item.lstrip("+").startswith("output=") for item in overrides):
        return options
    point = PurePosixPath(hydra.job.override_dirname or "default")
    return dataclasses.replace(options, output=f"{options.output.rstrip('/')}/{point}")


def _settings(config: DictConfig) -> dict[str, Any]:
    """The resolved configuration as run.json tells it: without credentials."""
    settings = _plain(config)
    settings["storage"] = {name: value for name, value in settings["storage"].items() if name not in _SECRETS}
    return settings


def _plain(config: DictConfig) -> dict[str, Any]:
    tree = OmegaConf.to_container(config, resolve=True, throw_on_missing=False)
    assert isinstance(tree, dict)
    return {str(name): value for name, value in tree.items()}


if __name__ == "__main__":
    import sys

    from jobs.entry import command_line

    sys.exit(command_line("annotate", sys.argv[1:]))
