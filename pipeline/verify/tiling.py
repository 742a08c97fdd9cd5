"""Whether the files of a shard tile [0, end)."""

from collections.abc import Iterator, Sequence
from itertools import groupby

from pipeline.output.units import Unit
from pipeline.verify.findings import Finding, of_unit


def groups(units: Sequence[Unit]) -> list[list[Unit]]:
    """The units of one shard, in order, with those together that cannot all be true."""
    found: list[list[Unit]] = []
    for unit in units:
        if found and _clash(found[-1], unit):
            found[-1].append(unit)
        else:
            found.append([unit])
    return found


def _clash(group: Sequence[Unit], unit: Unit) -> bool:
    """Whether a unit begins within one before it, where that does, or behind the one marked as the end."""
    return any(unit.first < other.stop or unit.first == other.first or other.end for other in group)


def doubled(group: Sequence[Unit]) -> Iterator[Finding]:
    """A finding for each of several files that cannot all be true."""
    for unit in group:
        others = ", ".join(other.file_name for other in group if other != unit)
        yield of_unit("doubled", unit, f"it contradicts {others[:200]}", remove=True)


def unclaimed(units: Sequence[Unit], shards: int) -> Iterator[Finding]:
    """The ranges of all shards that no file claims, in order or not; `units` are sorted."""
    claims = {shard: list(some) for shard, some in groupby(units, key=lambda unit: unit.shard)}
    for empty, group in groupby(range(shards), key=lambda shard: shard not in claims):
        numbers = list(group)
        if not empty:
            for shard in numbers:
                yield from _holes(shard, claims[shard])
        elif len(numbers) == 1:
            yield Finding("missing", "it has no file", numbers[0])
        else:
            yield Finding(
                "missing", f"neither it nor any other up to shard {numbers[-1]} has a file", numbers[0]
            )


def _holes(shard: int, units: Sequence[Unit]) -> Iterator[Finding]:
    """The ranges of a shard that no file claims, up to the first one that claims to be its end."""
    reached = 0
    for unit in units:
        if unit.first > reached:
            yield Finding("missing", "no file holds them", shard, reached, unit.first)
        reached = max(reached, unit.stop)
        if unit.end:
            return
    yield Finding("missing", "no file is marked as the shard's end", shard, reached)
