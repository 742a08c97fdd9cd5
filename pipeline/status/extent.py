"""How much there is in all, and how much of it is done, by the plan and the names of the files."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from pipeline.output.plan import Plan
from pipeline.output.units import Finished


@dataclass(frozen=True)
class Extent:
    """Samples and shards; `begun` names some of the shards that have a part of their units.

    `samples_in_all` is None as long as nothing tells how many samples a byte of the source holds, and an
    estimate if `estimated`: a tar's samples are counted when its end is reached.
    """

    units: int
    samples: int
    samples_in_all: int | None
    estimated: bool
    shards: int
    shards_finished: int
    shards_begun: int
    begun: list[dict[str, Any]] = field(default_factory=list)

    @property
    def samples_left(self) -> int | None:
        """What is still to be made."""
        return None if self.samples_in_all is None else max(self.samples_in_all - self.samples, 0)

    @property
    def complete(self) -> bool:
        """Whether every shard has all its units."""
        return self.shards_finished == self.shards


def extent_of(plan: Plan, finished: Finished, most_named: int) -> Extent:
    """What the plan holds and what of it is there; no file of a unit is opened."""
    uris, sizes, planned = (plan.table[name].to_pylist() for name in ("uri", "size", "samples"))
    done = [_samples(finished, shard) for shard in range(len(plan))]
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


def _samples(finished: Finished, shard: int) -> int:
    return sum(stop - first for first, stop in finished.ranges(shard).items())


def _in_all(counts: Sequence[int | None], done: Sequence[int], sizes: Sequence[int]) -> int | None:
    """The samples of all shards; those of one that is not counted yet by its size, like those that are.

    A shard holds at least what was made of it.
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
