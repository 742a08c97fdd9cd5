"""The flow: stages as one Ray Data pipeline, units in, statistics out.

    shard numbers -> read -> decode -> encode (actors) -> generate (actors) -> write -> statistics

Each stage maps one-row tables to one-row tables. Stages book different amounts of CPU, so that Ray
does not fuse a task into an actor.
"""

import functools
import json
import logging
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from pipeline.errors import RunError
from pipeline.plan import load_plan, require_same
from pipeline.sources.base import Source
from pipeline.stages.decode import decode_unit
from pipeline.stages.encode import Encode
from pipeline.stages.generate import Generate
from pipeline.stages.read import read_shard
from pipeline.stages.write import ArmOutput, write_unit
from pipeline.storage import Storage
from pipeline.tasks import Task
from pipeline.units import UnitLimits

if TYPE_CHECKING:
    from pipeline.run import Prepared, RunConfig

# Restarts are bounded: a unit that kills its worker each time must end the run, not hang it.
_TASK = {"max_retries": 3}
_ACTOR = {"max_restarts": 3, "max_task_retries": 3}


def run_flow(config: "RunConfig", prepared: "Prepared", attempt: str) -> Iterator[dict[str, Any]]:
    """Make every missing unit of the pending shards; yields each one's statistics as it is written."""
    import ray

    _configure_ray_data()
    cluster, options = config.cluster, config.options
    gpus = ray.cluster_resources().get("GPU", 0)
    pending = prepared.pending
    units = _through(
        # blocks that are there: a read operator of Ray's own would book a whole CPU, and wait for ever
        ray.data.from_blocks([pa.table({"pending": [index]}) for index in range(len(pending))]),
        read_pending,
        fn_kwargs={
            "output": prepared.output,
            "source": config.source,
            "storage": config.storage,
            "task": config.task,
            "limits": config.limits,
            "pending": [(shard, prepared.finished.ranges(shard)) for shard in pending],
        },
        num_cpus=cluster.read.num_cpus,
        retries=_TASK,
    )
    units = _through(
        units,
        decode_unit,
        fn_kwargs={"checkpoint": config.model.path, "imaging": config.imaging},
        num_cpus=cluster.decode.num_cpus,
        retries=_TASK,
    )
    shared = {"geometry": prepared.geometry, "model": config.model, "arms": config.arms}
    units = _through(
        units,
        Encode,
        fn_constructor_kwargs={**shared, "device": options.device, "threads": cluster.encode.threads},
        num_cpus=cluster.encode.num_cpus,
        num_gpus=cluster.gpu_share("encode", gpus, options.device),
        compute=ray.data.ActorPoolStrategy(size=cluster.encode.num_actors),
        retries=_ACTOR,
    )
    units = _through(
        units,
        Generate,
        fn_constructor_kwargs={
            **shared,
            "engine": config.engine,
            "decoding": config.decoding,
            "seed": options.seed,
            "device": options.device,
            "threads": cluster.generate.threads,
        },
        num_cpus=cluster.generate.num_cpus,
        num_gpus=cluster.gpu_share("generate", gpus, options.device),
        compute=ray.data.ActorPoolStrategy(size=cluster.generate.num_actors),
        retries=_ACTOR,
    )
    rows = _through(
        units,
        write_unit,
        fn_kwargs={"outputs": _outputs(config, prepared), "storage": config.storage, "attempt": attempt},
        num_cpus=cluster.write.num_cpus,
        retries=_TASK,
    )
    try:
        for row in rows.iter_rows():
            yield json.loads(row["stats"])
    except ray.exceptions.RayError as error:
        # the last line is what the worker raised, the others are Ray's frames
        reason = config.storage.redact(str(error).strip().splitlines()[-1])
        raise RunError(f"{reason}; run the same command again to go on") from error


def read_pending(
    batch: pa.Table,
    *,
    output: str,
    source: Source,
    storage: Storage,
    task: Task,
    limits: UnitLimits,
    pending: list[tuple[int, dict[int, int]]],
) -> Iterator[pa.Table]:
    """The missing units of one shard: `batch` says which of the `pending` (number, finished ranges)."""
    ordinal, finished = pending[batch["pending"][0].as_py()]
    plan = _plan(output, storage)
    shard = plan.shard(ordinal, storage)
    require_same(shard, storage)
    yield from read_shard(source, shard, storage=storage, task=task, limits=limits, finished=finished)


@functools.lru_cache(maxsize=1)
def _plan(output: str, storage: Storage) -> Any:
    plan = load_plan(output, storage)
    assert plan is not None, "the driver has written the plan"
    return plan


def _through(units: Any, stage: Any, *, retries: dict[str, int], **options: Any) -> Any:
    """The units after one more stage, which is given a unit at a time, without a copy."""
    with warnings.catch_warnings():
        # Ray 2.60 deprecates passing these on, without another way to bound the retries yet
        warnings.simplefilter("ignore", DeprecationWarning)
        return units.map_batches(
            stage, batch_size=1, batch_format="pyarrow", zero_copy_batch=True, **options, **retries
        )


def _outputs(config: "RunConfig", prepared: "Prepared") -> tuple[ArmOutput, ...]:
    return tuple(
        ArmOutput(
            folder=f"{prepared.output}/{arm.folder}".rstrip("/"),
            reducer=arm.name,
            fingerprint=prepared.manifest.fingerprint,
            run_id=prepared.manifest.run_id,
            model=config.model.name,
        )
        for arm in config.arms
    )


def _configure_ray_data() -> None:
    import ray.data

    context = ray.data.DataContext.get_current()
    context.target_max_block_size = 1  # every unit is a block of its own
    context.enable_progress_bars = False
    context.max_errored_blocks = 0  # a block that fails must never vanish
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # what it logs as an error it also raises
