"""Names the unit files of an output, and tells from a listing which units are finished."""

import re
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise, repeat, tee

import numpy as np
from numpy.typing import NDArray

from pipeline.output.layout import DATA
from pipeline.storage.flat import list_in_parts, number_of
from pipeline.storage.uris import Storage
from pipeline.support.errors import ConfigError
from pipeline.support.fields import counted, require

MAX_UNIT_BYTES = 1 << 30
_SHARDS_A_PART = 16  # of a listing of a store
_NAME = re.compile(r"(\d{6,})-(\d{8,})-(\d{8,})(-end)?\.parquet")


@dataclass(frozen=True, kw_only=True)
class UnitLimits:
    """Configures the limits of a unit: it closes as soon as it reaches one, whatever the hardware."""

    unit_samples: int = counted(64)
    unit_requests: int = counted(128)
    unit_bytes: int = counted(64 << 20)
    max_questions: int = counted(128)

    def __post_init__(self) -> None:
        for key in ("unit_samples", "unit_requests", "unit_bytes", "max_questions"):
            require(getattr(self, key) >= 1, f"{key} must be at least 1")
        require(
            self.max_questions <= 10_000, "max_questions must be at most 10000 (a key has four digits for it)"
        )
        require(self.unit_bytes <= MAX_UNIT_BYTES // 2, f"unit_bytes must be at most {MAX_UNIT_BYTES // 2}")


@dataclass(frozen=True, order=True)
class Unit:
    """Names samples [first, stop) of one shard; `end` marks the shard's last unit."""

    shard: int
    first: int
    stop: int
    end: bool

    @property
    def file_name(self) -> str:
        """Name the unit's file below data/."""
        return f"{self.shard:06d}-{self.first:08d}-{self.stop:08d}{'-end' if self.end else ''}.parquet"

    @staticmethod
    def of_file(name: str) -> "Unit | None":
        """Parse a file name; None if it is not a unit's."""
        match = _NAME.fullmatch(name)
        return Unit(int(match[1]), int(match[2]), int(match[3]), bool(match[4])) if match else None


class Finished:
    """Holds the finished units of every shard, in order; 40 bytes of memory each.

    Args:
        names: of the files below data/; others than units' are passed over.
        times: when each of these files was written; None: unknown.

    Attributes:
        shards, firsts, stops, ends: of the units, in the order of shards and samples.
        times: of their files, in seconds since the epoch; 0 if unknown.

    Raises:
        ConfigError: two units begin at the same sample.
    """

    def __init__(self, names: Iterable[str], times: Iterable[float] | None = None) -> None:
        numbers, seconds = array("q"), array("d")
        for name, time in zip(names, repeat(0.0) if times is None else times, strict=times is not None):
            if match := _NAME.fullmatch(name):
                numbers.extend((int(match[1]), int(match[2]), int(match[3]), match[4] is not None))
                seconds.append(time)
        rows = np.array(numbers, np.int64).reshape(-1, 4)
        order = np.lexsort((rows[:, 1], rows[:, 0]))
        self.shards, self.firsts, self.stops = (rows[order, column] for column in range(3))
        self.ends: NDArray[np.bool_] = rows[order, 3].astype(bool)
        self.times: NDArray[np.float64] = np.array(seconds, np.float64)[order]
        self.count = len(rows)
        same = (np.diff(self.shards) == 0) & (np.diff(self.firsts) == 0)
        if same.any():
            one, other = (self._unit(int(place)).file_name for place in np.flatnonzero(same)[0] + [0, 1])
            raise ConfigError(
                f"the output holds two files for one range: {one}, {other}; "
                "`trimline verify output=... repair=true` removes them, and a rerun makes the range again"
            )

    @classmethod
    def of_files(cls, files: Iterable[tuple[str, float]]) -> "Finished":
        """Make it of names with times, as a listing has them."""
        names, times = tee(files)
        return cls((name for name, _ in names), (time for _, time in times))

    @cached_property
    def _begins(self) -> NDArray[np.intp]:
        """The place of each shard's first unit."""
        return np.flatnonzero(np.diff(self.shards, prepend=-1))

    def newest(self) -> dict[int, float]:
        """Map each shard with units to when the newest of their files was written; 0 if unknown."""
        newest = np.maximum.reduceat(self.times, self._begins) if self.count else self.times
        return dict(zip(self.shards[self._begins].tolist(), newest.tolist(), strict=True))

    def _unit(self, place: int) -> Unit:
        return Unit(
            int(self.shards[place]), int(self.firsts[place]), int(self.stops[place]), bool(self.ends[place])
        )

    def at(self, places: NDArray[np.int64]) -> list[Unit]:
        """List the units at some places in the order of all."""
        return [self._unit(int(place)) for place in places]

    def _of(self, shard: int) -> slice:
        return slice(int(self.shards.searchsorted(shard)), int(self.shards.searchsorted(shard, "right")))

    def ranges(self, shard: int) -> dict[int, int]:
        """Map the first sample of each of the shard's finished units to its stop."""
        places = self._of(shard)
        return dict(zip(self.firsts[places].tolist(), self.stops[places].tolist(), strict=True))

    def units(self, shard: int) -> list[Unit]:
        """List the shard's finished units in order."""
        places = self._of(shard)
        columns = (column[places].tolist() for column in (self.firsts, self.stops, self.ends))
        return [Unit(shard, *of_unit) for of_unit in zip(*columns, strict=True)]

    def has_shard(self, shard: int) -> bool:
        """Tell whether a shard's units cover it without a gap, from 0 to the one marked as the end."""
        return shard in self.whole

    @cached_property
    def whole(self) -> frozenset[int]:
        """The shards whose units cover them without a gap, up to the first one marked as the end."""
        if not self.count:
            return frozenset()
        reached = np.concatenate([[0], self.stops[:-1]])
        reached[self._begins] = 0
        gaps = np.cumsum(self.firsts != reached)
        before = gaps - (self.firsts != reached)  # of all units before
        of_shard = gaps - np.repeat(before[self._begins], np.diff(self._begins, append=self.count))
        return frozenset(self.shards[self.ends & (of_shard == 0)].tolist())

    @cached_property
    def _exact(self) -> frozenset[int]:
        """The whole shards of which the last unit alone is marked as the end."""
        if not self.count:
            return frozenset()
        last = np.append(self._begins[1:], self.count) - 1
        has_one = np.add.reduceat(self.ends.astype(np.int64), self._begins) == 1
        return self.whole & frozenset(self.shards[last[has_one & self.ends[last]]].tolist())

    def stops_of_whole(self, shard: int) -> list[int] | None:
        """List the stops of a whole shard's units; None if it is not whole, or there are other units."""
        stops: list[int] | None = self.stops[self._of(shard)].tolist() if shard in self._exact else None
        return stops

    def __iter__(self) -> Iterator[Unit]:
        for shard in np.unique(self.shards).tolist():
            yield from self.units(shard)


def units_up_to(shard: int, stops: Iterable[int]) -> list[Unit]:
    """List the units that cover a shard up to these stops; the last one is its end."""
    bounds = list(pairwise([0, *stops]))
    return [Unit(shard, *bound, number == len(bounds)) for number, bound in enumerate(bounds, 1)]


def finished_units(output: str, storage: Storage, *, only: range | None = None, planned: int = 0) -> Finished:
    """List the finished units of an output with their files' times; no file is opened.

    Args:
        only: the shards whose units are listed; None: all.
        planned: how many shards the plan has, if all are listed: a store is asked for several parts at once.
    """
    return Finished.of_files(times_of_units(output, storage, only=only, planned=planned))


def times_of_units(
    output: str, storage: Storage, *, only: range | None = None, planned: int = 0
) -> Iterator[tuple[str, float]]:
    """List the files below data/, whatever they are, with the times of writing; as `finished_units` does."""
    fs, path = storage.open(output)
    if only is None:
        return list_in_parts(fs, f"{path}/{DATA}", range(planned), _SHARDS_A_PART)
    listed = list_in_parts(fs, f"{path}/{DATA}", only, _SHARDS_A_PART, only=True) if only else iter(())
    return ((name, time) for name, time in listed if number_of(name) in only)
