"""Concludes an output whose units are all there: summary.json, the data set card and _SUCCESS."""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from pipeline.output.computed_on import mixture_lines
from pipeline.output.dataset_card import write_card
from pipeline.output.failed_shards import MOST_NAMED
from pipeline.output.footers import Json
from pipeline.output.layout import CARD, SUMMARY
from pipeline.output.opened import Output
from pipeline.output.repeated import repeated_lines
from pipeline.output.slice_notes import incidents_of_slices
from pipeline.output.summary import (
    Summary,
    is_successful,
    mark_success,
    summarise,
    summary_of,
    take_back_success,
)
from pipeline.output.units import Finished
from pipeline.run.config import Outcome
from pipeline.run.guard.incidents import Incident
from pipeline.storage.uris import Storage
from pipeline.support import log

NOTHING_TO_DO = "nothing to do: every shard was finished before"


def conclude_output(
    output: Output,
    max_failed_fraction: float,
    message: str,
    *,
    arm: str | None = None,
    notes: Sequence[str] = (),
    incidents: Sequence[Incident] | None = None,
    redact: Callable[[str], str] = str,
) -> Outcome:
    """Write summary.json, the card and, if the run succeeded, _SUCCESS as the last file; logs the end.

    Args:
        message: the last line of a run that succeeded.
        arm: its name, for the log.
        notes: what to tell besides.
        incidents: what happened to GPUs while this run made units; None: it made none, and what slices noted
            is told.
        redact: removes credentials from the lines about incidents.

    Raises:
        RunError: a unit was made of another state of its shard than the plan's.
    """
    outcome = _concluded(output, max_failed_fraction, message, incidents)
    notes = (*notes, *outcome.notes, *(redact(incident.line) for incident in incidents or ()))
    outcome = replace(outcome, run_id=output.manifest.run_id, notes=notes)
    log_end(outcome, arm)
    return outcome


def log_end(outcome: Outcome, arm: str | None) -> None:
    """Log how a run has ended, or a slice of it.

    Args:
        arm: its name.
    """
    counts = ("units", "samples", "rows", "status", "tokens", "samples_per_s", "failed_shards")
    summary = outcome.summary.to_json()
    counted = {name: summary[name] for name in counts}
    counted["failed_shards_named"] = summary["failed_shards_named"][:MOST_NAMED]
    log.event(
        "end",
        outcome.message,
        level=logging.ERROR if outcome.status else logging.INFO,
        exit_status=outcome.status,
        arm=arm,
        notes=outcome.notes,
        **counted,
    )


def _concluded(
    output: Output, max_failed_fraction: float, message: str, incidents: Sequence[Incident] | None
) -> Outcome:
    folder, storage = output.folder, output.storage
    summary = valid_summary(folder, output.finished, storage)
    notes: tuple[str, ...] = ()
    if summary is None:
        take_back_success(folder, storage)
        if incidents is None:
            told = incidents_of_slices(folder, storage)
            notes = tuple(_slices_lines(told))
        else:
            told = [incident.to_json() for incident in incidents]
        summary = summarise(folder, output.plan, output.finished, storage, told)
        if not write_card(folder, output.manifest, summary, storage):
            notes += (f"{CARD} is not Trimline's, or was edited, and stays as it is",)
    outcome = outcome_of(summary, max_failed_fraction, message, storage)
    if outcome.status == 0:
        mark_success(folder, storage)
    return replace(outcome, notes=(*notes, *outcome.notes))


def _slices_lines(told: Sequence[Json]) -> Iterator[str]:
    """Name the slices that had incidents, in a line; none if there were none."""
    names = list(dict.fromkeys(incident["slice"] for incident in told if "slice" in incident))
    if names:
        more = ", ..." if names[MOST_NAMED:] else ""
        events = sum(incident["times"] for incident in told)
        shown = ", ".join(names[:MOST_NAMED])
        yield f"{events:,} incidents in slices {shown}{more}: see incidents in {SUMMARY}"


def outcome_of(summary: Summary, max_failed_fraction: float, message: str, storage: Storage) -> Outcome:
    """Tell how a run, or a slice of it, has ended from its sums; `message` is for one that succeeded."""
    ok, rows = summary.ok, summary.rows
    notes = (*repeated_lines(summary.repeated), *mixture_lines(summary.rows_by_device))
    if summary.failed_shards:
        first = summary.failed_shards_named[0]
        text = f"{summary.failed_shards} shards could not be read whole"
        return Outcome(1, summary, storage.redact(f"{text}; {first.line}"), notes=notes)
    if rows - ok > max_failed_fraction * rows:
        text = f"{rows - ok} of {rows} rows failed, more than max_failed_fraction={max_failed_fraction}"
        return Outcome(3, summary, text, notes=notes)
    return Outcome(0, summary, message, notes=notes)


def valid_summary(folder: str, finished: Finished, storage: Storage) -> Summary | None:
    """Load the summary of an earlier successful run, if it counts as many units as there are now."""
    if not is_successful(folder, storage):
        return None
    return summary_of(folder, finished.count, storage)
