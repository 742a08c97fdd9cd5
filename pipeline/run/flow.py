"""Runs the stages as one Ray Data pipeline over units, and yields the statistics of each written unit.

    shard numbers -> read -> decode -> encode (actors) -> generate (actors) -> write -> statistics

Each stage maps one-row tables to one-row tables; a task may take several. Neighbouring stages book different
amounts of CPU, so that Ray does not fuse a task into an actor.
"""

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from pipeline.run.bundles import one_by_one, units_a_task
from pipeline.run.cluster.booked import TaskResources
from pipeline.run.cluster.gpu_room import GpuRoom
from pipeline.run.cluster.nodes import hardware
from pipeline.run.cluster.placement import reserved_places
from pipeline.run.cluster.resources import Cluster
from pipeline.run.guard.actor import watched_actor
from pipeline.run.guard.incidents import Incident
from pipeline.run.guard.ledger_handle import LedgerHandle, start_ledger
from pipeline.run.guard.stage import Watch, watched_read, watched_task
from pipeline.run.guard.stall import unless_stalled
from pipeline.stages.decode import decode_unit
from pipeline.stages.encode import Encode
from pipeline.stages.generate import Generate
from pipeline.stages.read import ReadPending
from pipeline.stages.write import ArmOutput, UnitStats, write_unit
from pipeline.support import log
from pipeline.support.errors import RunError

if TYPE_CHECKING:
    from ray.data import Dataset

    from pipeline.run.config import RunConfig
    from pipeline.run.prepare import Prepared
    from pipeline.run.prometheus import Metrics

# pipeline/run/guard limits the retries of each unit. A limit of Ray's would also count attempts to reach an
# actor that is still restarting.
_TASK_RETRIES = {"max_retries": -1}
_ACTOR_RETRIES = {"max_restarts": -1, "max_task_retries": -1}

# A block that is ready takes the driver 1.8 ms and 12 kB before the run begins.
_READY_BLOCKS, _SHARDS_A_BLOCK = 2000, 100
_SPLIT_CPUS = 0.001  # other than the next stage's, so that Ray does not fuse the two

_LEDGER_S = 30.0  # how long the ledger may take to answer at the end

# A stage's function, and the class of an actor with such a function.
UnitFunction = Callable[[pa.Table], pa.Table]
ActorClass = Callable[..., UnitFunction]


def run_flow(
    config: "RunConfig",
    prepared: "Prepared",
    attempt: str,
    *,
    encode: ActorClass = Encode,
    generate: ActorClass = Generate,
    metrics: "Metrics | None" = None,
    incidents: list[Incident] | None = None,
) -> Iterator[UnitStats]:
    """Make every missing unit of the pending shards, and yield each unit's statistics once it is written.

    Args:
        attempt: identifies this start of the job, and goes into the footers.
        encode, generate: the actors' classes; benchmarks of the rest replace them by stubs.
        metrics: counts the units' statistics, and what the ledger says is in work.
        incidents: what happened to devices is appended to it at the end.

    Raises:
        RunError: a stage failed for good, or no stage makes progress.
    """
    import ray

    _configure_ray_data()
    available = hardware()
    room = config.cluster.room_on(available, config.options.device)
    config = replace(config, cluster=config.cluster.on(available, config.options.device))
    ledger = start_ledger()
    try:
        with (
            _places(config.cluster, room) as places,
            metrics.watching(ledger) if metrics else nullcontext(),
        ):
            units = _read_and_decode(config, prepared, attempt, ledger)
            classes = {"encode": encode, "generate": generate}
            units = _encode_and_generate(units, config, prepared, ledger, classes, places)
            units = _write(units, config, prepared, attempt, ledger)
            for row in unless_stalled(units.iter_rows(), ledger, config.cluster.stall_s):
                stats = UnitStats.from_row(row)
                if metrics:
                    metrics.add(stats)
                yield stats
    except ray.exceptions.RayError as error:
        raise RunError(
            f"{config.redact(_original_error(error))}; run the same command again to go on"
        ) from error
    finally:
        if incidents is not None:
            with suppress(ray.exceptions.RayError):
                incidents += ledger.incidents(timeout_s=_LEDGER_S)
        ledger.kill()


def _places(cluster: Cluster, room: GpuRoom) -> AbstractContextManager[dict[str, dict[str, Any]]]:
    """Reserve the actors' places on GPUs, and tell how many GPUs get no actor."""
    if room.idle:
        log.tell("idle_gpus", f"{room.idle} GPUs of the cluster get no actor: {room.reason}")
    num_cpus = {"encode": cluster.encode.num_cpus, "generate": cluster.generate.num_cpus}
    return reserved_places(room, num_cpus, cluster.stall_s)


def _original_error(error: Exception) -> str:
    """Return the last line of the worker's own error, without the frames and advice that Ray adds."""
    chain = str(error).split("\nThe above exception was the direct cause of the following exception:\n")
    line = ([part for part in chain if "UserCodeException" not in part] or chain)[-1].strip().splitlines()[-1]
    return line.removeprefix(f"{RunError.__module__}.{RunError.__name__}: ")


def _read_and_decode(
    config: "RunConfig", prepared: "Prepared", attempt: str, ledger: LedgerHandle
) -> "Dataset":
    shards = _pending_shards(prepared)
    read = read_stage(config, prepared, attempt, ledger)
    units = _through(shards, read, **_booked(config.cluster.read), **_TASK_RETRIES)
    decode = partial(decode_unit, model=prepared.model_of(config), imaging=config.imaging)
    return _tasks(units, "decode", decode, config, ledger)


def _pending_shards(prepared: "Prepared") -> "Dataset":
    """Make a dataset with a block for each pending shard; of very many, while the run goes on."""
    import ray.data

    # ready blocks, because a read operator of Ray's would book a whole CPU, and could wait for it for ever
    if len(prepared.pending) <= _READY_BLOCKS:
        ready: Dataset = ray.data.from_blocks(list(prepared.pending_tables(1)))
        return ready
    tables = ray.data.from_blocks(list(prepared.pending_tables(_SHARDS_A_BLOCK)))
    return _through(tables, _as_it_is, num_cpus=_SPLIT_CPUS, concurrency=1, **_TASK_RETRIES)


def _as_it_is(row: pa.Table) -> pa.Table:
    """Return a row, which becomes a block of its own."""
    return row


def read_stage(
    config: "RunConfig", prepared: "Prepared", attempt: str, ledger: LedgerHandle
) -> Callable[[pa.Table], Iterator[pa.Table]]:
    """Make the function of the read tasks, whose size does not grow with the plan; see `pending.py`."""
    make = partial(
        ReadPending,
        output=prepared.plan.folder,
        attempt=attempt,
        source=prepared.source_of(config),
        storage=config.storage,
        reading=config.reading,
        task=config.task,
        limits=config.limits,
    )
    return watched_read(Watch("read", make, ledger))


def _encode_and_generate(
    units: "Dataset",
    config: "RunConfig",
    prepared: "Prepared",
    ledger: LedgerHandle,
    classes: dict[str, ActorClass],
    places: dict[str, dict[str, Any]],
) -> "Dataset":
    arguments = stage_arguments(config, prepared)
    for name, actor_class in classes.items():
        resources = config.cluster.actors(name)
        make = partial(actor_class, **arguments[name], threads=resources.threads)
        at_once = config.engine.units_at_once if name == "generate" else 1
        watch = Watch(name, make, ledger, num_gpus=resources.num_gpus or 0.0, at_once=at_once)
        units = _actors(units, watch, config, places.get(name, {}))
    return units


def stage_arguments(config: "RunConfig", prepared: "Prepared") -> dict[str, dict[str, object]]:
    """Collect the arguments of `Encode` and `Generate`, except `threads`, by the stages' names."""
    shared = {"geometry": prepared.geometry, "model": prepared.model_of(config), "arms": config.arms}
    device = {name: config.cluster.device_of(name, config.options.device) for name in ("encode", "generate")}
    return {
        "encode": {
            **shared,
            "device": device["encode"],
            "clip_text": config.clip_text,
            "suffix": config.task.suffix,
        },
        "generate": {
            **shared,
            "device": device["generate"],
            "engine": config.engine,
            "decoding": config.decoding,
            "seed": config.options.seed,
            "prompts": config.task.prompts,
        },
    }


def _write(
    units: "Dataset", config: "RunConfig", prepared: "Prepared", attempt: str, ledger: LedgerHandle
) -> "Dataset":
    write = partial(write_unit, outputs=outputs_of(config, prepared), storage=config.storage, attempt=attempt)
    return _tasks(units, "write", write, config, ledger)


def outputs_of(config: "RunConfig", prepared: "Prepared") -> tuple[ArmOutput, ...]:
    """Describe the arms' outputs for the write stage."""
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


def _tasks(
    units: "Dataset", name: str, stage: UnitFunction, config: "RunConfig", ledger: LedgerHandle
) -> "Dataset":
    """Add a stage of tasks."""
    make = partial(partial, stage)  # calling it makes a copy of the stage
    watched = one_by_one(watched_task(Watch(name, make, ledger, can_fail=name != "write")))
    at_once = units_a_task(name, config.cluster.generate.num_actors or 1)
    return _through(units, watched, at_once, **_booked(config.cluster.tasks(name)), **_TASK_RETRIES)


def _booked(resources: TaskResources) -> dict[str, Any]:
    """Give Ray's options for what a task books."""
    memory = {"memory": resources.memory} if resources.memory else {}
    return {"num_cpus": resources.num_cpus, **memory}


def _actors(units: "Dataset", watch: Watch, config: "RunConfig", place: dict[str, Any]) -> "Dataset":
    """Add a stage of actors, each of which works on up to `watch.at_once` units in as many threads.

    Args:
        place: Ray's options that put the actors on the GPUs reserved for them.
    """
    import ray.data

    resources = config.cluster.actors(watch.name)
    return _through(
        units,
        watched_actor(watch.name),
        fn_constructor_kwargs={"watch": watch},
        num_cpus=resources.num_cpus,
        num_gpus=resources.num_gpus,
        compute=ray.data.ActorPoolStrategy(
            min_size=resources.num_actors,
            max_size=resources.max_actors or resources.num_actors,
            enable_true_multi_threading=watch.at_once > 1,
        ),
        max_concurrency=watch.at_once,
        **place,
        **_ACTOR_RETRIES,
    )


def _through(
    units: "Dataset",
    stage: Callable[[pa.Table], pa.Table | Iterator[pa.Table]] | type,
    units_a_call: int = 1,
    **options: Any,  # keyword arguments of map_batches
) -> "Dataset":
    """Add a stage that is called with so many units, without copying them."""
    with warnings.catch_warnings():
        # Ray 2.60 deprecates these options, but has no other way to set the number of retries yet
        warnings.simplefilter("ignore", DeprecationWarning)
        options |= {"batch_format": "pyarrow", "zero_copy_batch": True}
        return units.map_batches(stage, batch_size=units_a_call, **options)


def _configure_ray_data() -> None:
    import ray.data

    context = ray.data.DataContext.get_current()
    context.target_max_block_size = 1  # each unit is a separate block
    context.enable_progress_bars = False
    # None: no polling thread for every task; the stages record their peaks themselves
    context.memory_usage_poll_interval_s = None
    context.max_errored_blocks = 0  # a failed block must not be dropped
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # it also raises the errors that it logs
