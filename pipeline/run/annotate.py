"""Runs a job: prepares it, runs the stages, lets Ray go, and concludes each arm's output."""

import logging
import time
from collections.abc import Sequence
from contextlib import suppress

from pipeline.output.done import forget_sums
from pipeline.output.failed_shards import place_of
from pipeline.output.footers import read_footer
from pipeline.output.layout import MANIFEST
from pipeline.output.opened import Output
from pipeline.output.summary import take_back_success
from pipeline.run.cluster.gpus import devices_of_answers
from pipeline.run.cluster.start import let_ray_go, start_ray
from pipeline.run.conclude import NOTHING_TO_DO, conclude_output
from pipeline.run.config import Outcome, RunConfig
from pipeline.run.driver_load import DriverLoad
from pipeline.run.early_stop import EarlyStop
from pipeline.run.guard.incidents import Incident
from pipeline.run.machine_checks import largest_unit
from pipeline.run.prepare import Prepared, look_again, prepare, prepare_all
from pipeline.run.progress import Progress
from pipeline.run.shard_tasks import ShardTasks
from pipeline.run.slice_end import conclude_slice
from pipeline.run.slices import begin_slice
from pipeline.storage.uris import canonical, store_errors
from pipeline.support import log
from pipeline.support.errors import ConfigError, RunError


def annotate(config: RunConfig) -> Outcome:
    """Answer every request of the source that has no answer yet.

    Raises:
        ConfigError: the configuration, the source or the output's state is wrong; before Ray starts.
        RunError: the run could not be finished.
    """
    ((outcome,),) = _finish([config], [prepare(config)])
    return outcome


def _finish(groups: Sequence[RunConfig], prepared: Sequence[Prepared]) -> list[list[Outcome]]:
    """Make every unit file that is missing in some arm, let Ray go, and conclude the arms' outputs.

    Raises:
        RunError: the run could not be finished. Existing files are kept; a rerun continues from them.
    """
    groups = [config.enduring() for config in groups]
    config, folder = groups[0], prepared[0].states[0].folder
    try:
        return _make_and_conclude(list(zip(groups, prepared, strict=True)))
    except store_errors(folder) as error:
        reason = config.redact(f"{type(error).__name__}: {error}")
        raise RunError(f"the output cannot be used: {reason}; run the same command again to go on") from error


def _make_and_conclude(runs: Sequence[tuple[RunConfig, Prepared]]) -> list[list[Outcome]]:
    """Run one group after the other, let Ray go, and conclude all; those before one that fails, too."""
    for run in runs:
        _begin(*run)
    made: list[list[Incident] | None] = []
    try:
        for run in runs:
            made.append(_make_missing(*run))
    except RunError:
        let_ray_go()
        for run, incidents in zip(runs, made, strict=False):
            with suppress(RunError):
                _conclude(*run, incidents)
        raise
    let_ray_go()
    return [_conclude(*run, incidents) for run, incidents in zip(runs, made, strict=True)]


def _begin(config: RunConfig, prepared: Prepared) -> None:
    """Note in the outputs that a slice has begun."""
    if prepared.own_slice is not None:
        for state in prepared.states:
            begin_slice(prepared.own_slice, prepared.own, state.folder, config.storage)


def _make_missing(config: RunConfig, prepared: Prepared) -> list[Incident] | None:
    """Make the missing units; returns what happened to GPUs meanwhile, None if no unit was missing."""
    log.bind(run_id=prepared.run_id, output=config.options.output)
    own = prepared.own
    log.event("start", source=prepared.plan.source, shards=len(own), pending=len(prepared.pending))
    if not prepared.pending:
        return None
    for state in prepared.states:
        take_back_success(state.folder, config.storage)
        forget_sums(state.folder, prepared.pending, len(prepared.plan), config.storage)
    return _run_units(config, prepared)


def _conclude(config: RunConfig, prepared: Prepared, incidents: list[Incident] | None) -> list[Outcome]:
    """Conclude the arms' outputs; RunError if units are still missing."""
    log.bind(run_id=prepared.run_id, output=config.options.output)
    message = NOTHING_TO_DO
    if incidents is not None:
        prepared, message = look_again(prepared, config.storage), "done"
    if prepared.pending:
        raise RunError(
            f"{len(prepared.pending)} shards are not finished, the first is "
            f"{place_of(prepared.plan, prepared.pending[0])}; `trimline verify output=...` tells why"
        )
    if prepared.own_slice is not None:
        return [conclude_slice(config, prepared, state, incidents) for state in prepared.states]
    return [
        conclude_output(
            Output(state.folder, config.storage, state.manifest, prepared.plan, state.finished),
            config.options.max_failed_fraction,
            message,
            arm=state.arm.name,
            notes=prepared.notes,
            incidents=incidents,
            redact=config.redact,
        )
        for state in prepared.states
    ]


def _run_units(config: RunConfig, prepared: Prepared) -> list[Incident]:
    """Make the missing units; returns what happened to GPUs meanwhile."""
    from pipeline.run.flow import run_flow
    from pipeline.run.prometheus import metrics_of

    attempt = f"{time.time():.3f}"  # identifies this start of the job, of which Ray's start is a part
    options = config.options
    start_ray(
        config.cluster,
        options.device,
        options.metrics_port,
        options.metrics_host,
        dtypes=config.model.dtypes,
    )
    _tell_other_device(config, prepared)
    total = sum(prepared.plan.size(shard) for shard in prepared.pending)
    early = EarlyStop(config, prepared.plan, prepared.own)
    load = DriverLoad(config.limits, largest_unit(config, prepared.geometry))
    shards = ShardTasks(config, prepared)
    measured = metrics_of(prepared, total) if config.options.metrics_port else None
    incidents: list[Incident] = []
    try:
        with Progress(total, _known_samples(prepared)) as progress:
            for stats in run_flow(config, prepared, attempt, metrics=measured, incidents=incidents):
                progress.add(stats)
                early.add(stats)
                load.add()
                shards.add(stats)
            shards.wait()
    except RunError:
        for incident in incidents:  # the notes tell them at the end of a run that succeeds
            log.tell("incident", config.redact(incident.line))
        raise
    for incident in incidents:
        log.event("incident", incident.line, level=logging.WARNING, **incident.to_json())
    return incidents


def _tell_other_device(config: RunConfig, prepared: Prepared) -> None:
    """Say so if a run goes on where answers may differ from its first ones by rounding."""
    state = prepared.states[0]
    first = next(iter(state.finished), None)
    if first is None:
        return
    before = read_footer(state.folder, first.file_name, config.storage).stages["generate"].device
    now = devices_of_answers(config.cluster, config.options.device)
    if before is not None and before not in now:
        names = ", ".join(sorted(now))
        text = f"this output was begun on {before} and goes on on {names}, which rounds differently"
        log.tell("other_device", text)


def _known_samples(prepared: Prepared) -> int | None:
    """Count the samples of pending units; None if the plan lacks a count, as for a tar not read yet."""
    counts = prepared.plan.table["samples"]
    samples = 0
    for shard in prepared.pending:
        count = counts[shard].as_py()
        if count is None:
            return None
        _, finished, _ = prepared.missing(shard)
        samples += count - sum(stop - first for first, stop in finished.items())
    return samples


def answer(groups: Sequence[RunConfig]) -> dict[str, tuple[str, Outcome]]:
    """Answer the same requests under several arms; used by `compare`.

    The arms of a group share model and engine, take turns unit by unit, and share the decoded and encoded
    images. Groups run one after the other, and are concluded when all have run and Ray has been let go.

    Returns:
        By the arms' names: the URI of the arm's output, and how its run ended.

    Raises:
        ConfigError: anything is wrong with a configuration or an output; before Ray starts.
        RunError: a run could not be finished.
    """
    _require_own_folder(groups[0])
    prepared = prepare_all(groups)
    ended: dict[str, tuple[str, Outcome]] = {}
    for of_group, outcomes in zip(prepared, _finish(groups, prepared), strict=True):
        for state, outcome in zip(of_group.states, outcomes, strict=True):
            ended[state.arm.name] = (state.folder, outcome)
    return ended


def _require_own_folder(config: RunConfig) -> None:
    """Refuse an output that belongs to a run of `annotate`."""
    output = canonical(config.options.output, config.storage)
    with config.storage.reaching("output", output):
        fs, folder = config.storage.open(output)
        is_run = fs.exists(f"{folder}/{MANIFEST}")
    if is_run:
        raise ConfigError(
            f"output {config.storage.redact(output)} holds a run of annotate, and a comparison's arms lie in "
            "folders of their own: choose another output"
        )
