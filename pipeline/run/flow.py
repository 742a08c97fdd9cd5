"""The flow: stages as one Ray Data pipeline, units in, statistics out.

    shard numbers -> read -> decode -> encode (actors) -> generate (actors) -> write -> statistics

Each stage maps one-row tables to one-row tables. Stages book different amounts of CPU, so that Ray
does not fuse a task into an actor.
"""

import logging
import warnings
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from pipeline.run.cluster.start import hardware
from pipeline.run.guard.stage import Watch, watched_actor, watched_read, watched_task
from pipeline.run.guard.stall import start_ledger, unless_stuck
from pipeline.stages.decode import decode_unit
from pipeline.stages.encode import Encode
from pipeline.stages.generate import Generate
from pipeline.stages.read import ReadPending
from pipeline.stages.write import ArmOutput, UnitStats, write_unit
from pipeline.support.errors import RunError

if TYPE_CHECKING:
    from pipeline.run.config import RunConfig
    from pipeline.run.prepare import Prepared
    from pipeline.run.prometheus import Metrics

# Deaths are bounded unit by unit, by pipeline/run/guard. Ray's own bound would also count attempts that
# find an actor which is still starting again.
_TASK = {"max_retries": -1}
_ACTOR = {"max_restarts": -1, "max_task_retries": -1}


def run_flow(
    config: "RunConfig",
    prepared: "Prepared",
    attempt: str,
    *,
    encode: Any = Encode,
    generate: Any = Generate,
    metrics: "Metrics | None" = None,
) -> Iterator[UnitStats]:
    """Make every missing unit of the pending shards; yields each one's statistics as it is written.

    `encode` and `generate` are the actors' classes; a benchmark of what is around them has its own. `metrics`
    take in what the ledger and the units tell.

    Raises:
        RunError: a stage failed for good, or is stuck.
    """
    import ray

    _configure_ray_data()
    config = replace(config, cluster=config.cluster.on(hardware(), config.options.device))
    ledger = start_ledger()
    units = _read_and_decode(config, prepared, attempt, ledger)
    units = _answer(units, config, prepared, ledger, {"encode": encode, "generate": generate})
    units = _write(units, config, prepared, attempt, ledger)
    try:
        with metrics.watching(ledger) if metrics else nullcontext():
            for row in unless_stuck(units.iter_rows(), ledger, config.cluster.stall_s):
                stats = UnitStats.from_row(row)
                if metrics:
                    metrics.add(stats)
                yield stats
    except ray.exceptions.RayError as error:
        raise RunError(
            f"{config.storage.redact(_raised(error))}; run the same command again to go on"
        ) from error
    finally:
        ray.kill(ledger)


def _raised(error: Exception) -> str:
    """The last line of what the worker itself raised: Ray tells it first, then its own frames and advice."""
    told = str(error).split("\nThe above exception was the direct cause of the following exception:\n")
    own = [part for part in told if "UserCodeException" not in part] or told
    return own[-1].strip().splitlines()[-1]


def _read_and_decode(config: "RunConfig", prepared: "Prepared", attempt: str, ledger: Any) -> Any:
    import ray.data

    pending = [prepared.missing(shard) for shard in prepared.pending]
    # blocks that are there: a read operator of Ray's own would book a whole CPU, and wait for ever
    shards = ray.data.from_blocks([pa.table({"pending": [index]}) for index in range(len(pending))])
    make = partial(
        ReadPending,
        output=prepared.plan.folder,
        attempt=attempt,
        source=config.source,
        storage=config.storage,
        task=config.task,
        limits=config.limits,
        pending=pending,
    )
    read = watched_read(Watch("read", make, ledger), prepared.pending)
    units = _through(shards, read, retries=_TASK, num_cpus=config.cluster.read.num_cpus)
    decode = partial(decode_unit, model=config.model, imaging=config.imaging)
    return _tasks(units, "decode", decode, config, ledger)


def _answer(
    units: Any, config: "RunConfig", prepared: "Prepared", ledger: Any, stages: dict[str, Any]
) -> Any:
    shared = {
        "geometry": prepared.geometry,
        "model": config.model,
        "arms": config.arms,
        "device": config.options.device,
    }
    own = {
        "encode": {"clip_text": config.clip_text, "suffix": config.task.suffix},
        "generate": {"engine": config.engine, "decoding": config.decoding, "seed": config.options.seed},
    }
    for name, stage in stages.items():
        threads = getattr(config.cluster, name).threads
        make = partial(stage, **shared, **own[name], threads=threads)
        at_once = config.engine.units_at_once if name == "generate" else 1
        units = _actors(units, Watch(name, make, ledger), config, at_once)
    return units


def _write(units: Any, config: "RunConfig", prepared: "Prepared", attempt: str, ledger: Any) -> Any:
    write = partial(write_unit, outputs=outputs_of(config, prepared), storage=config.storage, attempt=attempt)
    return _tasks(units, "write", write, config, ledger)


def outputs_of(config: "RunConfig", prepared: "Prepared") -> tuple[ArmOutput, ...]:
    """What `write` has to know of the arms."""
    return tuple(
        ArmOutput(
            folder=state.folder,
            reducer=state.arm.name,
            fingerprint=state.manifest.fingerprint,
            run_id=state.manifest.run_id,
            model=config.model.name,
        )
        for state in prepared.states
    )


def _tasks(units: Any, name: str, stage: Any, config: "RunConfig", ledger: Any) -> Any:
    """The units after a stage of tasks."""
    watched = watched_task(Watch(name, partial(partial, stage), ledger, apart=name != "write"))
    return _through(units, watched, retries=_TASK, num_cpus=getattr(config.cluster, name).num_cpus)


def _actors(units: Any, watch: Watch, config: "RunConfig", at_once: int) -> Any:
    """The units after a stage of actors, which are called with `at_once` units in as many threads."""
    import ray

    resources = getattr(config.cluster, watch.name)
    return _through(
        units,
        watched_actor(watch.name),
        retries=_ACTOR,
        fn_constructor_kwargs={"watch": watch},
        num_cpus=resources.num_cpus,
        num_gpus=resources.num_gpus,
        compute=ray.data.ActorPoolStrategy(
            min_size=resources.num_actors,
            max_size=resources.max_actors or resources.num_actors,
            enable_true_multi_threading=at_once > 1,
        ),
        max_concurrency=at_once,
    )


def _through(units: Any, stage: Any, *, retries: dict[str, int], **options: Any) -> Any:
    """The units after one more stage, which is given a unit at a time, without a copy."""
    with warnings.catch_warnings():
        # Ray 2.60 deprecates passing these on, without another way to bound the retries yet
        warnings.simplefilter("ignore", DeprecationWarning)
        return units.map_batches(
            stage, batch_size=1, batch_format="pyarrow", zero_copy_batch=True, **options, **retries
        )


def _configure_ray_data() -> None:
    import ray.data

    context = ray.data.DataContext.get_current()
    context.target_max_block_size = 1  # every unit is a block of its own
    context.enable_progress_bars = False
    context.memory_usage_poll_interval_s = (
        None  # a thread for every task; the stages tell their peaks themselves
    )
    context.max_errored_blocks = 0  # a block that fails must never vanish
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # what it logs as an error it also raises
