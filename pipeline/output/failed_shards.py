"""Names shards, and those that could not be read whole, for people."""

from collections.abc import Mapping
from dataclasses import dataclass

from pipeline.output.plan import Plan
from pipeline.storage.names import shown


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


def not_read_whole(plan: Plan, errors: Mapping[int, str], most: int = 10) -> list[str]:
    """Describe the first shards that could not be read completely, by number, in a line each."""
    lines = [failed_shard(plan, *item).line for item in list(errors.items())[:most]]
    more = [f"{len(errors) - most:,} more shards"] if len(errors) > most else []
    return [f"not read whole: {line}" for line in lines + more]


def place_of(plan: Plan, shard: int) -> str:
    """Name a shard by its number and URI."""
    return _place(shard, _uri(plan, shard))


def _uri(plan: Plan, shard: int) -> str | None:
    return plan.line(shard).uri if shard < len(plan) else None


def _place(shard: int, uri: str | None) -> str:
    return str(shard) if uri is None else f"{shard} ({shown(uri)})"
