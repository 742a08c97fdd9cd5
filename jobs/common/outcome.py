"""Prints the result of a run."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from pipeline.output.failed_shards import MOST_NAMED, broken_lines
from pipeline.support import log
from pipeline.support.census import Census
from pipeline.support.plain_text import printable
from pipeline.support.schema import SECONDS

if TYPE_CHECKING:
    from pipeline.output.summary import Summary
    from pipeline.run.config import Outcome


def show_outcome(outcome: "Outcome", output: str) -> None:
    """Print the table of totals and the last line; nothing under `log=json`, which has the event `end`."""
    if log.is_json():
        return
    console = Console(
        highlight=False, soft_wrap=True, markup=False, emoji=False
    )  # names from data are no markup
    census = Census.from_json(outcome.summary.census) if outcome.summary.census else Census()
    console.print(_table(outcome.summary, census.passed_over.total()))
    if census.passed_over:
        console.print(printable(f"passed over: {census.description()}"))
    broken = outcome.summary.failed_shards
    if broken > 1:  # of one the message tells
        for line in broken_lines(outcome.summary.failed_shards_named[:MOST_NAMED], broken):
            console.print(printable(line))
    for note in outcome.notes:
        console.print(printable(f"note: {note}"))
    console.print(printable(f"output: {output} (run {outcome.run_id})"))
    console.print(printable(outcome.message))


def _table(summary: "Summary", passed_over: int) -> Table:
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column()
    table.add_column(justify="right")
    table.add_column()
    for status, count in sorted(summary.status.items()):
        table.add_row(printable(f"rows {status}"), f"{count:,}")
    table.add_row(
        "samples", f"{summary.samples:,}", f"in {summary.units:,} units of {summary.shards:,} shards"
    )
    if passed_over:
        table.add_row("passed over", f"{passed_over:,}", "entries of the source; see below")
    if len(summary.rows_by_node) > 1:
        for node, count in sorted(summary.rows_by_node.items()):
            table.add_row(printable(f"rows answered on {node}"), f"{count:,}")
    fraction = summary.kept_fraction
    for name in ("visual_tokens_full", "visual_tokens_kept", "prompt_tokens", "generated_tokens"):
        note = f"{fraction:.1%} of full" if name.endswith("kept") and fraction is not None else ""
        table.add_row(name.replace("_", " "), f"{summary.tokens[name]:,}", note)
    for name in SECONDS:
        label = name.removesuffix("_s").replace("_", " ")
        table.add_row(
            f"{label} s",
            f"{summary.stage_seconds[name]:.1f}",
            "of which prefill above" if name == "generate_s" else "",
        )
    if summary.samples_per_s is not None:
        table.add_row(
            "samples/s",
            f"{summary.samples_per_s:.2f}",
            f"over {summary.active_seconds:.1f} s, start-up of Ray excluded",
        )
    return table


def worst_status(outcomes: "Iterable[Outcome]") -> int:
    """Return the exit status of several outputs: 1, a shard that could not be read, outweighs failed rows."""
    statuses = {outcome.status for outcome in outcomes}
    return 1 if 1 in statuses else max(statuses)
