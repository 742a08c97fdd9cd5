"""Estimates totals and rate of an output from a sample of its footers."""

import heapq
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from pipeline.output.computed_on import computed_on
from pipeline.output.footers import Footer, read_footer
from pipeline.output.units import Unit
from pipeline.storage.uris import Storage
from pipeline.support.census import Census
from pipeline.support.errors import RunError
from pipeline.support.parallel import THREADS, each


@dataclass
class Sampled:
    """Sums up the sampled footers.

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

    def add(self, footer: Footer) -> None:
        """Add one footer to the sums."""
        self.units += 1
        self.rows += footer.totals.rows
        self.samples += footer.samples
        self.status.update(footer.totals.status)
        self.rows_by_device[computed_on(footer.stages)] += footer.totals.rows
        self.tokens.update(footer.totals.tokens)
        if footer.census:
            self.census.add(Census.from_json(footer.census))
        if footer.shard_error:
            self.shard_errors[footer.shard] = footer.shard_error


def choose(times: Mapping[Unit, float], most: int) -> tuple[list[Unit], list[Unit]]:
    """Choose the newest units, for the rate, and others from all shards, for the totals: `most` in all.

    Of the others, units without a sample come first: a shard that could not be opened has one.
    """
    newest = heapq.nlargest(
        most if len(times) <= most else most // 2, times, key=lambda unit: (times[unit], *_place(unit))
    )
    taken = set(newest)
    older = sorted((unit for unit in times if unit not in taken), key=_place)
    empty = [unit for unit in older if unit.first == unit.stop]
    others = [unit for unit in older if unit.first != unit.stop]
    room = most - len(newest)
    return newest, (_spread(empty, room // 2) + _spread(others, room))[:room]


def _place(unit: Unit) -> tuple[int, int]:
    return unit.shard, unit.first


def _spread(units: Sequence[Unit], count: int) -> list[Unit]:
    """Choose `count` units at equal distances, or all."""
    if len(units) <= count:
        return list(units)
    return [units[number * len(units) // count] for number in range(count)]


def read_sample(folder: str, times: Mapping[Unit, float], most: int, storage: Storage) -> Sampled:
    """Sum up the footers of at most `most` units; files that vanish meanwhile are skipped."""

    def read(unit: Unit) -> Footer | Exception | None:
        try:
            return read_footer(folder, unit.file_name, storage)
        except FileNotFoundError:
            return None
        except (RunError, ValueError, LookupError, TypeError) as error:  # Arrow's own are ValueErrors
            return error

    sampled = Sampled()
    newest, others = choose(times, most)
    for units, of_newest in ((newest, True), (others, False)):
        for footer in each(read, units, THREADS):
            if isinstance(footer, Exception):
                sampled.damaged += 1
            elif footer is not None:
                sampled.add(footer)
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
