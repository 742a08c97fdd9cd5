"""Ends a slice of a run: tells how its own shards are, and what is left to do when all slices are done."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from pipeline.output.summary import Summary, sum_up
from pipeline.run.conclude import log_end, outcome_of
from pipeline.run.config import Outcome
from pipeline.run.slices import note_incidents
from pipeline.support.schema import COUNTS, SECONDS

if TYPE_CHECKING:
    from pipeline.run.config import RunConfig
    from pipeline.run.guard.incidents import Incident
    from pipeline.run.prepare import ArmState, Prepared


def conclude_slice(
    config: "RunConfig", prepared: "Prepared", state: "ArmState", incidents: "Sequence[Incident] | None"
) -> Outcome:
    """Tell how a slice's run has ended, by its own shards; `finish` writes summary.json and _SUCCESS.

    Args:
        incidents: what happened to GPUs; None: the slice had nothing to make.

    Raises:
        RunError: a unit was made of another state of its shard than the plan's.
    """
    assert prepared.own_slice is not None
    told = [incident.to_json() for incident in incidents or ()]
    if incidents is not None:
        note_incidents(prepared.own_slice, told, state.folder, config.storage)
    summary = sum_up(state.folder, prepared.plan, state.finished, config.storage, prepared.own)
    summary = replace(_with_all_sums(summary), incidents=told or None)
    text = _text(prepared, is_made=incidents is not None)
    outcome = outcome_of(summary, config.options.max_failed_fraction, text, config.storage)
    lines = (config.redact(incident.line) for incident in incidents or ())
    outcome = replace(
        outcome,
        message=f"slice {prepared.own_slice}: {outcome.message}; {_next_step(config)}",
        run_id=state.manifest.run_id,
        notes=(*prepared.notes, *outcome.notes, *lines),
    )
    log_end(outcome, state.arm.name)
    return outcome


def _with_all_sums(summary: Summary) -> Summary:
    """Add zeros for the sums that a summary without any unit lacks."""
    tokens, seconds = dict.fromkeys(COUNTS, 0), dict.fromkeys(SECONDS, 0.0)
    return replace(summary, tokens=tokens | summary.tokens, stage_seconds=seconds | summary.stage_seconds)


def _text(prepared: "Prepared", *, is_made: bool) -> str:
    own = len(prepared.own)
    if not own:
        return f"it has none of the {len(prepared.plan)} shards"
    return f"{own} shards done" if is_made else f"nothing to do: its {own} shards were finished before"


def _next_step(config: "RunConfig") -> str:
    """Say what is to be run when all slices are done."""
    compares = any(arm.folder for arm in config.arms)
    then = ", then this command without slice compares" if compares else ""
    return f"when all slices are done: trimline finish output={config.redact(config.options.output)}{then}"
