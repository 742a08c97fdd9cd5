"""An output's state for people."""

from collections.abc import Iterator

from pipeline.status.status import Status

_STATES = {
    "finished": "finished",
    "ended": "all units are there, without _SUCCESS: rows or shards failed, or the run is at its summary",
    "running": "running, it seems: the newest unit came {ago} ago",
    "stopped": "stopped, it seems: the newest unit came {ago} ago; the same command again goes on",
    "empty": "planned; no unit is there yet",
}


def lines(found: Status) -> Iterator[str]:
    """One line for each thing that is known; what is estimated says so."""
    extent = found.extent
    yield f"{'run':10}{found.run_id}"
    yield f"{'state':10}{_STATES[found.state].format(ago=clock(found.quiet_s or 0))}"
    about = "about " if extent.estimated else ""
    in_all = f"{about}{extent.samples_in_all:,}" if extent.samples_in_all is not None else "an unknown number"
    share = f" ({extent.samples / extent.samples_in_all:.1%})" if extent.samples_in_all else ""
    yield f"{'done':10}{extent.samples:,} of {in_all} samples{share}, in {extent.units:,} units"
    begun = f", {extent.shards_begun:,} begun" if extent.shards_begun else ""
    yield f"{'shards':10}{extent.shards_finished:,} of {extent.shards:,} finished{begun}"
    for one in extent.begun:
        of = "" if one["of"] is None else f" of {one['of']:,}"
        yield f"{'':10}shard {one['shard']}: {one['samples']:,}{of} samples, {one['uri']}"
    yield from _pace(found)
    yield from _outcome(found)


def _pace(found: Status) -> Iterator[str]:
    if found.samples_per_s is None or found.requests_per_s is None:
        return
    rate = f"{found.samples_per_s:.2f} samples/s, {found.requests_per_s:.2f} requests/s"
    if found.extent.complete:
        yield f"{'rate':10}{rate}"
        return
    yield f"{'rate':10}{rate} over the newest units"
    if found.left_s is not None:
        yield f"{'left':10}about {clock(found.left_s)} at that rate"


def _outcome(found: Status) -> Iterator[str]:
    if found.rows:
        told = ", ".join(
            f"{status} {count:,} ({count / found.rows:.1%})" for status, count in found.status.items()
        )
        yield f"{'rows':10}{told}{_of(found)}"
        full, kept = found.tokens["visual_tokens_full"], found.tokens["visual_tokens_kept"]
        if full:
            yield f"{'tokens':10}{kept / full:.1%} of the visual tokens kept"
    for shard, error in found.failed_shards.items():
        yield f"{'broken':10}shard {shard}: {error}"
    if found.damaged:
        yield f"{'damaged':10}{found.damaged:,} of the files read: `trimline verify output=...` names them"


def _of(found: Status) -> str:
    """Of how many units rows were counted, unless it is all."""
    if found.counted_units == found.extent.units:
        return ""
    return f", in {found.counted_units:,} of {found.extent.units:,} units"


def clock(seconds: float) -> str:
    """Hours, minutes and seconds."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"
