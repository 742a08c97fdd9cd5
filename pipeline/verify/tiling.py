"""Finds gaps and overlaps among the units of a shard."""

from collections.abc import Iterator, Sequence
from itertools import groupby

from pipeline.output.units import Unit
from pipeline.verify.findings import Finding, of_unit


def overlapping(units: Sequence[Unit]) -> list[list[Unit]]:
    """Group the units of one shard, given in order, by overlapping sample ranges; most groups hold one."""
    groups: list[list[Unit]] = []
    for unit in units:
        if groups and _overlaps(groups[-1], unit):
            groups[-1].append(unit)
        else:
            groups.append([unit])
    return groups


def _overlaps(group: Sequence[Unit], unit: Unit) -> bool:
    """Tell whether a unit begins within a unit of the group, at its beginning, or after a marked end."""
    return any(unit.first < other.stop or unit.first == other.first or other.end for other in group)


def doubled(group: Sequence[Unit]) -> Iterator[Finding]:
    """Make a finding for each unit of an overlapping group."""
    for unit in group:
        others = ", ".join(other.file_name for other in group if other != unit)
        yield of_unit("doubled", unit, f"it contradicts {others[:200]}", remove=True)


def unclaimed(units: Sequence[Unit], shards: range) -> Iterator[Finding]:
    """Find the ranges of these shards that no file covers; `units` are sorted, and need not be in order."""
    claims = {shard: list(of_shard) for shard, of_shard in groupby(units, key=lambda unit: unit.shard)}
    for empty, group in groupby(shards, key=lambda shard: shard not in claims):
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
    """Find the gaps between a shard's units, up to the first unit that is marked as the end."""
    reached = 0
    for unit in units:
        if unit.first > reached:
            yield Finding("missing", "no file holds them", shard, reached, unit.first)
        reached = max(reached, unit.stop)
        if unit.end:
            return
    yield Finding("missing", "no file is marked as the shard's end", shard, reached)
