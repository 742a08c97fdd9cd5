"""Names shards, and those that could not be read whole, for people."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

from pipeline.output.plan import Plan
from pipeline.storage.names import shown

MOST_NAMED = 10  # of the shards that could not be read whole, where people read them


@dataclass(frozen=True)
class FailedShard:
    """Names a shard that the run could not read completely, and why.

    `uri` is the plan's; None: the plan lacks the shard, or an earlier release wrote the summary.
    """

    shard: int
    error: str
    uri: str | None = None

    @property
    def line(self) -> str:
        """Describe the shard in one line."""
        return f"shard {_place(self.shard, self.uri)}: {self.error}"


def failed_shard(plan: Plan, shard: int, error: str) -> FailedShard:
    """Find the URI of a shard that could not be read completely."""
    return FailedShard(shard, error, _uri(plan, shard))


def not_read_whole(plan: Plan, errors: Mapping[int, str], most: int = MOST_NAMED) -> list[str]:
    """Describe the first shards that could not be read completely, by number, in a line each."""
    return broken_lines([failed_shard(plan, *item) for item in islice(errors.items(), most)], len(errors))


def broken_lines(first: Sequence[FailedShard], count: int) -> list[str]:
    """Describe the first of `count` broken shards in a line each, and tell how many more there are."""
    more = [f"{count - len(first):,} more shards"] if count > len(first) else []
    return [f"not read whole: {line}" for line in [*(failed.line for failed in first), *more]]


def place_of(plan: Plan, shard: int) -> str:
    """Name a shard by its number and URI."""
    return _place(shard, _uri(plan, shard))


def _uri(plan: Plan, shard: int) -> str | None:
    return plan.line(shard).uri if shard < len(plan) else None


def _place(shard: int, uri: str | None) -> str:
    return str(shard) if uri is None else f"{shard} ({shown(uri)})"
