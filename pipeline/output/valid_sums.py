"""Reads what done/ tells of whole shards, without the keys of their samples."""

from collections.abc import Iterator, Sequence
from functools import partial

from pipeline.output.done import read_sums, states_of
from pipeline.output.plan import Plan
from pipeline.output.sums import ShardSums
from pipeline.output.units import Finished
from pipeline.storage.uris import Storage
from pipeline.support.processes import each_of_many


def valid_sums(
    folder: str, plan: Plan, finished: Finished, shards: Sequence[int], storage: Storage
) -> Iterator[ShardSums]:
    """Read the sums of some shards; skips those that are not of the units and the source as they are now.

    Args:
        shards: of `shards_with_sums`.
    """
    states = states_of(plan)
    read = partial(read_sums, folder, storage=storage, keys=False)
    for shard, sums in zip(shards, each_of_many(read, shards, costs=len(shards)), strict=True):
        stops = finished.stops_of_whole(shard)
        if sums is not None and stops is not None and sums.are_of(stops, states[shard]):
            yield sums
