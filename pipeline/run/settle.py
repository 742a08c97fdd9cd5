"""Decides, once and before anything is counted or checked, what a configuration leaves to where it runs.

An output that has been begun goes on as it was begun.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from pipeline.engines.auto import Auto
from pipeline.engines.base import EngineConfig, Setting
from pipeline.support import log
from pipeline.support.errors import ConfigError

if TYPE_CHECKING:
    from pipeline.run.config import RunConfig


def settle(
    config: "RunConfig",
    *,
    shares_images: bool | None = None,
    other_batches: bool = False,
    tells: bool = True,
) -> "RunConfig":
    """Return the configuration with its engine chosen and all of the engine's fields decided.

    Args:
        shares_images: questions about one image may have the same visual tokens; None: as the arms say.
        other_batches: answer in other batches than the engine's own, as a control arm does.
        tells: say in a line which engine was chosen.

    Raises:
        ConfigError: the engine must know where it will run, or the GPUs booked are not the engine's.
    """
    if not config.engine.settles:
        engine = config.engine.other_batches() if other_batches else config.engine
        return _with_gpus(replace(config, engine=engine))
    setting = Setting(
        on_gpu=_is_on_gpu(config),
        shares_images=_shares_images(config) if shares_images is None else shares_images,
        earlier=_earlier(config),
    )
    engine = config.engine
    if isinstance(engine, Auto):
        engine, reason = engine.choose(config.decoding, setting)
        name = type(engine).__name__.lower()
        if tells:
            log.tell("engine", f"engine=auto is engine={name}: {reason}")
    unsettled, engine = engine, engine.settled(setting)
    settings = config.settings
    if type(engine) is not type(config.engine):
        kind = type(engine)
        target = f"{kind.__module__}.{kind.__qualname__}"
        settings = settings | {"engine": {"_target_": target, **vars(engine)}}
    else:  # what else is there may have been redacted
        decided = {name: value for name, value in vars(engine).items() if value != vars(config.engine)[name]}
        settings = settings | {"engine": settings["engine"] | decided}
    if other_batches:
        engine = _in_other_batches(unsettled, setting)
    return _with_gpus(replace(config, engine=engine, settings=settings))


def _in_other_batches(engine: EngineConfig, setting: Setting) -> EngineConfig:
    """Settle an engine for a control arm: with half the batch sizes of an arm that is not.

    Sizes that an existing output of the arm has are halved already.
    """
    settled = engine.settled(setting)
    new = engine.settled(replace(setting, on_gpu=bool(setting.on_gpu), earlier={}))
    counted = setting.earlier if setting.earlier.get("kind") == type(engine).__name__ else {}
    of_output = {
        name: counted.get(name, vars(settled)[name])
        for name, value in vars(new).items()
        if vars(engine)[name] != value and (name in counted or vars(settled)[name] != value)
    }
    return replace(new.other_batches(), **of_output)


def _is_on_gpu(config: "RunConfig") -> bool | None:
    """Tell whether the language model will run on GPUs; None: this machine cannot know."""
    from pipeline.models.devices import torch_device

    booked = config.cluster.generate.num_gpus
    if config.options.device != "auto" or booked is not None:
        return config.options.device != "cpu" and booked != 0
    if config.cluster.address == "local":
        return config.cluster.num_gpus != 0 and torch_device("auto").type == "cuda"
    return None


def _shares_images(config: "RunConfig") -> bool:
    """Tell whether an image may have several questions for which an arm keeps the same tokens."""
    task = config.task
    several = task.source_questions or len(task.prompts) > 1
    return several and any(not arm.reads_request for arm in config.arms)


def _earlier(config: "RunConfig") -> Mapping[str, object]:
    """Collect what the fingerprint of an existing output counts of its engine."""
    manifest = config.first_manifest()
    counted = manifest.counted if manifest else {}
    return {
        name.removeprefix("engine."): value for name, value in counted.items() if name.startswith("engine.")
    }


def _with_gpus(config: "RunConfig") -> "RunConfig":
    """Book as many GPUs for each language model as its engine computes on."""
    gpus, generate = config.engine.gpus, config.cluster.generate
    _require_memory(config)
    if gpus == 1:
        if (generate.num_gpus or 0) > 1:
            raise ConfigError(
                f"cluster.generate.num_gpus={generate.num_gpus:g}: {type(config.engine).__name__} computes "
                "on one GPU, and the others would be idle; engine=vllm shares a language model among "
                "engine.tensor_parallel GPUs"
            )
        return config
    if _is_on_gpu(config) is False:
        raise ConfigError(f"engine.tensor_parallel={gpus} needs GPUs, but the run computes on CPUs")
    if generate.num_gpus not in (None, gpus):
        raise ConfigError(
            f"engine.tensor_parallel={gpus} and cluster.generate.num_gpus={generate.num_gpus:g} must be "
            "equal: an actor's GPUs are those that share its language model"
        )
    return replace(config, cluster=replace(config.cluster, generate=replace(generate, num_gpus=float(gpus))))


def _require_memory(config: "RunConfig") -> None:
    """Refuse several language models on a GPU whose first would take all of its memory."""
    from pipeline.run.cluster.gpu_room import models_a_gpu

    generate = config.cluster.generate
    scales, share = generate.max_actors is not None, generate.num_gpus
    is_alone = generate.num_actors == 1 and not scales
    if not share or is_alone or not config.engine.takes_free_memory:
        return
    # Ray packs the actors of a cluster that scales, wherever the CLIPs are
    models = int(1 / share) if scales else models_a_gpu(config.cluster.encode, generate)[0]
    if models > 1:
        raise ConfigError(
            f"cluster.generate.num_gpus={share:g}: {models} language models would share a GPU, "
            "of which the first takes all memory; set engine.gpu_memory_utilization to the part of each, "
            f"such as {0.9 / models:.2f}"
        )
