"""Counts samples and shards, planned and finished, from the plan and the file names."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypedDict

import numpy as np

from pipeline.output.plan import Plan
from pipeline.output.units import Finished


class BegunShard(TypedDict):
    """Describes a shard with a part of its units; `of` is its number of samples, if known."""

    shard: int
    uri: str
    samples: int
    of: int | None


@dataclass(frozen=True)
class Extent:
    """Counts samples and shards.

    Args:
        samples_in_all: None while no shard is finished to estimate it from.
        estimated: whether that is an estimate: a tar's samples are counted when its end is reached.
        begun: some of the shards that have a part of their units.
    """

    units: int
    samples: int
    samples_in_all: int | None
    estimated: bool
    shards: int
    shards_finished: int
    shards_begun: int
    begun: list[BegunShard] = field(default_factory=list)

    @property
    def samples_left(self) -> int | None:
        """The number of samples that are still to be made."""
        return None if self.samples_in_all is None else max(self.samples_in_all - self.samples, 0)

    @property
    def complete(self) -> bool:
        """Whether every shard has all its units."""
        return self.shards_finished == self.shards


def extent_of(plan: Plan, finished: Finished, most_named: int) -> Extent:
    """Count the plan's samples and shards and the finished ones, without opening units' files."""
    uris, sizes, planned = (plan.table[name].to_pylist() for name in ("uri", "size", "samples"))
    done = _samples_of(finished, len(plan))
    whole = [finished.has_shard(shard) for shard in range(len(plan))]
    counts = [
        reached if is_whole else count for reached, is_whole, count in zip(done, whole, planned, strict=True)
    ]
    begun = [shard for shard, reached in enumerate(done) if reached and not whole[shard]]
    return Extent(
        units=finished.count,
        samples=sum(done),
        samples_in_all=_in_all(counts, done, sizes),
        estimated=None in counts,
        shards=len(plan),
        shards_finished=sum(whole),
        shards_begun=len(begun),
        begun=[
            {"shard": shard, "uri": uris[shard], "samples": done[shard], "of": planned[shard]}
            for shard in begun[:most_named]
        ],
    )


def _samples_of(finished: Finished, shards: int) -> list[int]:
    """Count the samples of each shard's finished units."""
    lengths, is_planned = finished.stops - finished.firsts, finished.shards < shards
    counts = np.bincount(finished.shards[is_planned], lengths[is_planned], minlength=shards)
    return [int(count) for count in counts.tolist()]


def _in_all(counts: Sequence[int | None], done: Sequence[int], sizes: Sequence[int]) -> int | None:
    """Estimate the samples of all shards: those of uncounted shards by their size, as in counted ones.

    A shard holds at least as many samples as were made of it.
    """
    known = [(count, size) for count, size in zip(counts, sizes, strict=True) if count is not None]
    samples, held = sum(count for count, _ in known), sum(size for _, size in known)
    if len(known) < len(counts) and not (samples and held):
        return None
    return samples + sum(
        max(reached, round(size * samples / held))
        for count, reached, size in zip(counts, done, sizes, strict=True)
        if count is None
    )
