"""Estimates totals and rate of an output from the sums of finished shards and a sample of other footers."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from pipeline.output.done import shards_with_sums
from pipeline.output.footers import Footer, read_footer
from pipeline.output.plan import Plan
from pipeline.output.sums import ShardSums, sum_footers
from pipeline.output.units import Finished, Unit
from pipeline.output.valid_sums import valid_sums
from pipeline.storage.uris import Storage
from pipeline.support.census import Census
from pipeline.support.errors import RunError
from pipeline.support.parallel import THREADS, each


@dataclass
class Sampled:
    """Adds up sums of shards and sampled footers.

    Args:
        damaged: how many files have no readable footer.
        newest: the footers of the newest files.
    """

    units: int = 0
    rows: int = 0
    samples: int = 0
    damaged: int = 0
    status: Counter[str] = field(default_factory=Counter)
    tokens: Counter[str] = field(default_factory=Counter)
    shard_errors: dict[int, str] = field(default_factory=dict)
    census: Census = field(default_factory=Census)
    rows_by_device: Counter[str] = field(default_factory=Counter)
    newest: list[Footer] = field(default_factory=list)

    def add(self, sums: ShardSums) -> None:
        """Add the sums of a shard, or of one unit."""
        self.units += sums.units
        self.rows += sums.rows
        self.samples += sums.samples
        self.status.update(sums.status)
        self.rows_by_device.update(sums.devices)
        self.tokens.update(sums.tokens)
        self.census.add(sums.census)
        if sums.shard_error:
            self.shard_errors[sums.shard] = sums.shard_error


def choose(finished: Finished, most: int, summed: Sequence[int] = ()) -> tuple[list[Unit], list[Unit]]:
    """Choose the newest units, for the rate, and others from all shards, for the totals: `most` in all.

    Of the others, units without a sample come first: a shard that could not be opened has one.

    Args:
        summed: shards that are counted already; none of the others is one of theirs.
    """
    by_time = np.lexsort((finished.firsts, finished.shards, finished.times))[::-1]
    newest = by_time[: most if finished.count <= most else most // 2]
    is_open = np.isin(finished.shards, np.array(summed, np.int64), invert=True)
    is_open[newest] = False
    is_empty = finished.firsts == finished.stops
    room = most - len(newest)
    empty = _spread(np.flatnonzero(is_open & is_empty), room // 2)
    others = _spread(np.flatnonzero(is_open & ~is_empty), room)
    return finished.at(newest), finished.at(np.concatenate([empty, others])[:room])


def _spread(places: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """Choose `count` places at equal distances, or all."""
    if len(places) <= count:
        return places
    chosen: NDArray[np.int64] = places[np.arange(count) * len(places) // max(count, 1)]
    return chosen


def read_sample(
    folder: str, plan: Plan, finished: Finished, most: int, most_sums: int, storage: Storage
) -> Sampled:
    """Add up the sums of finished shards, and the footers of at most `most` units of the other shards.

    Files that vanish meanwhile are skipped.

    Args:
        finished: with the times of the files.
        most_sums: how many shards' sums are read.
    """

    def read(unit: Unit) -> tuple[Footer, ShardSums] | Exception | None:
        try:
            footer = read_footer(folder, unit.file_name, storage)
            state = footer.source_size, footer.source_etag
            return footer, sum_footers([footer], footer.shard, state)
        except FileNotFoundError:
            return None
        except (RunError, ValueError, LookupError, TypeError) as error:  # Arrow's own are ValueErrors
            return error

    sampled, summed = Sampled(), set()
    shards = np.array(sorted(shards_with_sums(folder, plan, finished, storage)), np.int64)
    for sums in valid_sums(folder, plan, finished, _spread(shards, most_sums).tolist(), storage):
        sampled.add(sums)
        summed.add(sums.shard)
    newest, others = choose(finished, most, sorted(summed))
    for units, of_newest in ((newest, True), (others, False)):
        for unit, found in zip(units, each(read, units, THREADS), strict=True):
            if isinstance(found, Exception):
                sampled.damaged += 1
            elif found is not None:
                footer, sums = found
                if unit.shard not in summed:
                    sampled.add(sums)
                sampled.newest += [footer] if of_newest else []
    return sampled


def rate_of(footers: Sequence[Footer]) -> tuple[float, float] | None:
    """Compute samples and requests a second of the job's latest start; None if there are too few units.

    From when the first of its units here was written to when the last was.
    """
    if not footers:
        return None
    in_order = sorted(footers, key=lambda footer: footer.end_time)
    first, *later = (footer for footer in in_order if footer.attempt == in_order[-1].attempt)
    seconds = in_order[-1].end_time - first.end_time
    if seconds <= 0:
        return None
    samples = sum(footer.samples for footer in later)
    return samples / seconds, sum(footer.totals.rows for footer in later) / seconds
