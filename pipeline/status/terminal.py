"""Describes an output's state in lines for a terminal."""

from collections.abc import Iterator

from pipeline.output.computed_on import mixture_lines
from pipeline.output.failed_shards import FailedShard
from pipeline.output.repeated import repeated_lines
from pipeline.status.slice_states import slice_lines
from pipeline.status.status import Status
from pipeline.storage.names import shown

_STATES = {
    "finished": "finished",
    "ended": "all units are there, without _SUCCESS: rows or shards failed, or the run is at its summary",
    "running": "running, it seems: the newest unit came {ago} ago",
    "stopped": "stopped, it seems: the newest unit came {ago} ago; the same command again goes on",
    "empty": "planned; no unit is there yet",
}


def lines(status: Status) -> Iterator[str]:
    """Describe a state, with a line for each known figure; marks estimates."""
    extent = status.extent
    yield f"{'run':10}{status.run_id}"
    yield f"{'state':10}{_STATES[status.state].format(ago=clock(status.quiet_s or 0))}"
    about = "about " if extent.estimated else ""
    in_all = f"{about}{extent.samples_in_all:,}" if extent.samples_in_all is not None else "an unknown number"
    share = f" ({extent.samples / extent.samples_in_all:.1%})" if extent.samples_in_all else ""
    yield f"{'done':10}{extent.samples:,} of {in_all} samples{share}, in {extent.units:,} units"
    begun = f", {extent.shards_begun:,} begun" if extent.shards_begun else ""
    yield f"{'shards':10}{extent.shards_finished:,} of {extent.shards:,} finished{begun}"
    for shard in extent.begun:
        of = "" if shard["of"] is None else f" of {shard['of']:,}"
        yield f"{'':10}shard {shard['shard']}: {shard['samples']:,}{of} samples, {shown(shard['uri'])}"
    yield from slice_lines(status.slices)
    yield from _pace(status)
    yield from _outcome(status)


def _pace(status: Status) -> Iterator[str]:
    if status.samples_per_s is None or status.requests_per_s is None:
        return
    rate = f"{status.samples_per_s:.2f} samples/s, {status.requests_per_s:.2f} requests/s"
    if status.extent.complete:
        yield f"{'rate':10}{rate}"
        return
    yield f"{'rate':10}{rate} over the newest units"
    if status.left_s is not None:
        yield f"{'left':10}about {clock(status.left_s)} at that rate"


def _outcome(status: Status) -> Iterator[str]:
    if status.rows:
        counts = ", ".join(
            f"{name} {count:,} ({count / status.rows:.1%})" for name, count in status.status.items()
        )
        yield f"{'rows':10}{counts}{_of(status)}"
        full, kept = status.tokens["visual_tokens_full"], status.tokens["visual_tokens_kept"]
        if full:
            yield f"{'tokens':10}{kept / full:.1%} of the visual tokens kept"
    for shard, error in status.failed_shards.items():
        yield f"{'broken':10}{FailedShard(shard, error, status.failed_shard_uris.get(shard)).line}"
    if more := status.failed_shard_count - len(status.failed_shards):
        yield f"{'broken':10}{more:,} more shards"
    for reason, text in status.passed_over.items():
        yield f"{'skipped':10}{reason}: {text}"
    for line in (*repeated_lines(status.repeated), *mixture_lines(status.rows_by_device)):
        yield f"{'warning':10}{line}"
    if status.damaged:
        yield f"{'damaged':10}{status.damaged:,} of the files read: `trimline verify output=...` names them"


def _of(status: Status) -> str:
    """Say in how many units rows were counted, unless in all."""
    if status.counted_units == status.extent.units:
        return ""
    return f", in {status.counted_units:,} of {status.extent.units:,} units"


def clock(seconds: float) -> str:
    """Format seconds as hours, minutes and seconds."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"
