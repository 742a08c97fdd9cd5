"""Runs a job: prepares it, runs the stages, and ends each arm's output with summary.json and _SUCCESS."""

import logging
import time
from collections.abc import Sequence
from dataclasses import replace

from pipeline.output.computed_on import mixture_lines
from pipeline.output.dataset_card import write_card
from pipeline.output.failed_shards import MOST_NAMED, place_of
from pipeline.output.footers import read_footer
from pipeline.output.layout import CARD, MANIFEST
from pipeline.output.plan import Plan
from pipeline.output.repeated import repeated_lines
from pipeline.output.summary import (
    Summary,
    is_successful,
    mark_success,
    summarise,
    summary_of,
    take_back_success,
)
from pipeline.run.cluster.gpus import devices_of_answers
from pipeline.run.cluster.start import start_ray
from pipeline.run.config import Outcome, RunConfig
from pipeline.run.driver_load import DriverLoad
from pipeline.run.early_stop import EarlyStop
from pipeline.run.guard.incidents import Incident
from pipeline.run.machine_checks import largest_unit
from pipeline.run.prepare import ArmState, Prepared, look_again, prepare, prepare_all
from pipeline.run.progress import Progress
from pipeline.storage.uris import canonical, store_errors
from pipeline.support import log
from pipeline.support.errors import ConfigError, RunError


def annotate(config: RunConfig) -> Outcome:
    """Answer every request of the source that has no answer yet.

    Raises:
        ConfigError: the configuration, the source or the output's state is wrong; before Ray starts.
        RunError: the run could not be finished.
    """
    prepared = prepare(config)
    (outcome,) = finish(config, prepared)
    return outcome


def finish(config: RunConfig, prepared: Prepared) -> list[Outcome]:
    """Make every unit file that is missing in some arm, and conclude the arms' outputs.

    Raises:
        RunError: the run could not be finished. Existing files are kept; a rerun continues from them.
    """
    config = config.enduring()
    try:
        return _finish(config, prepared)
    except store_errors(prepared.states[0].folder) as error:
        reason = config.redact(f"{type(error).__name__}: {error}")
        raise RunError(f"the output cannot be used: {reason}; run the same command again to go on") from error


def _finish(config: RunConfig, prepared: Prepared) -> list[Outcome]:
    log.bind(run_id=prepared.run_id, output=config.options.output)
    log.event("start", source=prepared.plan.source, shards=len(prepared.plan), pending=len(prepared.pending))
    if not prepared.pending:
        message = "nothing to do: every shard was finished before"
        return [_conclude(config, prepared, state, message) for state in prepared.states]
    for state in prepared.states:
        take_back_success(state.folder, config.storage)
    incidents = _run_units(config, prepared)
    done = look_again(prepared, config.storage)
    if done.pending:
        raise RunError(
            f"{len(done.pending)} shards are not finished, the first is "
            f"{place_of(done.plan, done.pending[0])}; `trimline verify output=...` tells why"
        )
    return [_conclude(config, done, state, "done", incidents) for state in done.states]


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
    early = EarlyStop(config, prepared.plan)
    load = DriverLoad(config.limits, largest_unit(config, prepared.geometry))
    measured = metrics_of(prepared, total) if config.options.metrics_port else None
    incidents: list[Incident] = []
    try:
        with Progress(total, _known_samples(prepared)) as progress:
            for stats in run_flow(config, prepared, attempt, metrics=measured, incidents=incidents):
                progress.add(stats)
                early.add(stats)
                load.add()
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


def _conclude(
    config: RunConfig,
    prepared: Prepared,
    state: ArmState,
    message: str,
    incidents: Sequence[Incident] = (),
) -> Outcome:
    """Conclude an arm's output, and log how its run ended."""
    outcome = _conclude_output(config, prepared.plan, state, message, incidents)
    notes = (*prepared.notes, *outcome.notes, *(config.redact(incident.line) for incident in incidents))
    outcome = replace(outcome, run_id=state.manifest.run_id, notes=notes)
    counts = ("units", "samples", "rows", "status", "tokens", "samples_per_s", "failed_shards")
    summary = outcome.summary.to_json()
    counted = {name: summary[name] for name in counts}
    counted["failed_shards_named"] = summary["failed_shards_named"][:MOST_NAMED]
    level = logging.ERROR if outcome.status else logging.INFO
    log.event(
        "end",
        outcome.message,
        level=level,
        exit_status=outcome.status,
        arm=state.arm.name,
        notes=outcome.notes,
        **counted,
    )
    return outcome


def _conclude_output(
    config: RunConfig, plan: Plan, state: ArmState, message: str, incidents: Sequence[Incident]
) -> Outcome:
    """Write summary.json and the data set card and, if the run succeeded, _SUCCESS as the last file."""
    summary = _valid_summary(config, state)
    notes: tuple[str, ...] = ()
    if summary is None:
        take_back_success(state.folder, config.storage)
        told = [incident.to_json() for incident in incidents]
        summary = summarise(state.folder, plan, state.finished, config.storage, told)
        if not write_card(state.folder, state.manifest, summary, config.storage):
            notes = (f"{CARD} is not Trimline's, or was edited, and stays as it is",)
    ok, rows = summary.ok, summary.rows
    notes += (*repeated_lines(summary.repeated), *mixture_lines(summary.rows_by_device))
    if summary.failed_shards:
        first = summary.failed_shards_named[0]
        text = f"{summary.failed_shards} shards could not be read whole"
        return Outcome(1, summary, config.storage.redact(f"{text}; {first.line}"), notes=notes)
    allowed = config.options.max_failed_fraction
    if rows - ok > allowed * rows:
        text = f"{rows - ok} of {rows} rows failed, more than max_failed_fraction={allowed}"
        return Outcome(3, summary, text, notes=notes)
    mark_success(state.folder, config.storage)
    return Outcome(0, summary, message, notes=notes)


def _valid_summary(config: RunConfig, state: ArmState) -> Summary | None:
    """Load the summary of an earlier successful run, if it counts as many units as there are now."""
    if not is_successful(state.folder, config.storage):
        return None
    return summary_of(state.folder, state.finished.count, config.storage)


def answer(groups: Sequence[RunConfig]) -> dict[str, tuple[str, Outcome]]:
    """Answer the same requests under several arms; used by `compare`.

    The arms of a group share model and engine, take turns unit by unit, and share the decoded and encoded
    images. Groups run one after the other.

    Returns:
        By the arms' names: the URI of the arm's output, and how its run ended.

    Raises:
        ConfigError: anything is wrong with a configuration or an output; before Ray starts.
        RunError: a run could not be finished.
    """
    _require_own_folder(groups[0])
    prepared = prepare_all(groups)
    ended: dict[str, tuple[str, Outcome]] = {}
    for group, states in zip(groups, prepared, strict=True):
        outcomes = finish(group, states)
        for state, outcome in zip(states.states, outcomes, strict=True):
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
