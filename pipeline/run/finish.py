"""Concludes outputs that slices have made, or a run that was stopped at its end: without Ray and models."""

from collections.abc import Iterator
from dataclasses import dataclass

from pipeline.output.failed_shards import place_of
from pipeline.output.opened import Output, open_output, outputs_at
from pipeline.output.slice_notes import slice_notes
from pipeline.run.conclude import NOTHING_TO_DO, conclude_output, valid_summary
from pipeline.run.config import Outcome, RunOptions
from pipeline.run.slices import slice_with
from pipeline.storage.uris import Storage, store_errors
from pipeline.support.errors import RunError
from pipeline.support.fields import free, require


@dataclass(frozen=True, kw_only=True)
class Finishing:
    """Configures `trimline finish`.

    Args:
        output: of `annotate` or `compare`, of which every shard is finished.
        max_failed_fraction: of the rows; None: as the run had it.
    """

    output: str = free()
    max_failed_fraction: float | None = free(None)

    def __post_init__(self) -> None:
        allowed = self.max_failed_fraction
        require(bool(self.output), "output must not be empty")
        require(allowed is None or 0 <= allowed <= 1, "max_failed_fraction must be in [0, 1]")


def finish_outputs(options: Finishing, storage: Storage) -> Iterator[tuple[str, Outcome]]:
    """Conclude an output, or each arm of a comparison, as the run itself would do.

    Returns:
        URI of each output, and how its run ended.

    Raises:
        ConfigError: there is no output, it is damaged, or it cannot be reached.
        RunError: a shard is not finished, or a unit is of another state of its shard.
    """
    storage = storage.enduring()
    outputs = [open_output(folder, storage) for folder in outputs_at(options.output, storage)]
    for output in outputs:
        _require_whole(output)
    try:
        for output in outputs:
            yield output.folder, _conclude(output, options)
    except store_errors(outputs[0].folder) as error:
        reason = storage.redact(f"{type(error).__name__}: {error}")
        raise RunError(f"the output cannot be used: {reason}; run the same command again to go on") from error


def _conclude(output: Output, options: Finishing) -> Outcome:
    allowed = options.max_failed_fraction
    if allowed is None:
        allowed = output.manifest.configuration.get("max_failed_fraction", RunOptions().max_failed_fraction)
    is_done = valid_summary(output.folder, output.finished, output.storage) is not None
    return conclude_output(output, float(allowed), NOTHING_TO_DO if is_done else "done")


def _require_whole(output: Output) -> None:
    """Refuse an output with an unfinished shard; names the slice that has to make it."""
    missing = [shard for shard in range(len(output.plan)) if not output.finished.has_shard(shard)]
    if missing:
        raise RunError(
            f"{output.storage.redact(output.folder)}: {len(missing)} of {len(output.plan)} shards are not "
            f"finished, the first is {place_of(output.plan, missing[0])}; {_next_step(output, missing[0])}"
        )


def _next_step(output: Output, shard: int) -> str:
    """Name the slice that makes the shard, as the newest notes divide the plan; it may not have begun."""
    notes = slice_notes(output.folder, output.storage)
    if notes:
        return f"run slice={slice_with(output.plan, shard, notes[0].count)}, which makes it"
    return "run the command that makes it again"
