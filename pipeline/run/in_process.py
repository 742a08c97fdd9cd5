"""Runs a job in the calling process, without Ray, to debug stages."""

from pipeline.output.done import forget_sums
from pipeline.run.config import RunConfig
from pipeline.run.flow import ActorClass, outputs_of, stage_arguments
from pipeline.run.prepare import Prepared, prepare
from pipeline.stages.decode import decode_unit
from pipeline.stages.encode import Encode
from pipeline.stages.generate import Generate
from pipeline.stages.read import read_shard
from pipeline.stages.write import write_unit


def run_in_process(
    config: RunConfig, attempt: str = "1", *, encode: ActorClass = Encode, generate: ActorClass = Generate
) -> None:
    """Make every missing unit by calling the stages one after the other, as plain functions.

    Breakpoints, `print` and stack traces work in every stage. The files are the same as those of a run with
    Ray. There are no retries after crashes, no progress display, and no summary.json or _SUCCESS at the end.

    Args:
        attempt: identifies this start of the job, and goes into the footers.
        encode, generate: the stages' classes, which may be replaced to look at what goes in and out.

    Raises:
        ConfigError: as `annotate` does.
    """
    make_units(config, prepare(config), attempt, encode=encode, generate=generate)


def make_units(
    config: RunConfig,
    prepared: Prepared,
    attempt: str,
    *,
    encode: ActorClass = Encode,
    generate: ActorClass = Generate,
) -> None:
    """Make every missing unit of a prepared run; the rest is as in `run_in_process`."""
    arguments = stage_arguments(config, prepared)
    encode_unit = encode(**arguments["encode"], threads=None)
    generate_unit = generate(**arguments["generate"], threads=None)
    outputs = outputs_of(config, prepared)
    for state in prepared.states:
        forget_sums(state.folder, prepared.pending, len(prepared.plan), config.storage)
    for number in prepared.pending:
        shard = prepared.plan.shard(number, config.storage)
        _, finished, lacking_arms = prepared.missing(number)
        units = read_shard(
            prepared.source_of(config),
            shard,
            storage=config.reading,
            task=config.task,
            limits=config.limits,
            finished=finished,
            lacking_arms=lacking_arms,
        )
        for unit in units:
            decoded = decode_unit(unit, model=prepared.model_of(config), imaging=config.imaging)
            answered = generate_unit(encode_unit(decoded))
            write_unit(answered, outputs=outputs, storage=config.storage, attempt=attempt)
