"""Cuts a plan into contiguous slices of about the same size, each to be run by itself."""

import re
import socket
import time
from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import TYPE_CHECKING

from pipeline.output.footers import Json
from pipeline.output.slice_notes import MOST_INCIDENTS, SliceNote, few_incidents, read_note, write_note
from pipeline.storage.uris import Storage
from pipeline.support.errors import ConfigError

if TYPE_CHECKING:
    from pipeline.output.plan import Plan


@dataclass(frozen=True)
class Slice:
    """Names the slice `number`, from 0, of `count`."""

    number: int
    count: int

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"

    def shards_of(self, plan: "Plan") -> range:
        """Return the slice's shards. Lines renewed since they were listed do not move the cuts."""
        return cut(plan.listed["size"].to_pylist(), self.number, self.count)


def parse_slice(text: str) -> Slice:
    """Read `i/n`; ConfigError if it is none."""
    match = re.fullmatch(r"(\d{1,9})/(\d{1,9})", text)
    if match is None or int(match[1]) >= int(match[2]):
        raise ConfigError(
            f"slice: {text!r} is none: give i/n with 0 <= i < n; slice=0/4 is the first of four"
        )
    return Slice(int(match[1]), int(match[2]))


def cut(sizes: Sequence[int], number: int, count: int) -> range:
    """Return the items of one of `count` contiguous ranges, which are about equal in bytes.

    An item belongs to range floor(count * (bytes before it + half its own) / all bytes); where all sizes are
    zero each item counts as much as any other. The ranges cover all items, each once; they may be empty.
    """
    of_item = _numbering(sizes, count)
    first, stop = (bisect_left(range(len(sizes)), wanted, key=of_item) for wanted in (number, number + 1))
    return range(first, stop)


def slice_with(plan: "Plan", shard: int, count: int) -> Slice:
    """Return the one of `count` slices that has a shard of the plan."""
    return Slice(_numbering(plan.listed["size"].to_pylist(), count)(shard), count)


def _numbering(sizes: Sequence[int], count: int) -> Callable[[int], int]:
    """Return the function that numbers the range of an item, as `cut` says."""
    before = [0, *accumulate(sizes if any(sizes) else [1] * len(sizes))]
    return lambda item: min(count * (before[item] + before[item + 1]) // (2 * before[-1]), count - 1)


def begin_slice(own_slice: Slice, shards: range, folder: str, storage: Storage) -> None:
    """Note in an output that a slice has begun, and where, for `trimline status` and `finish`.

    What the last start that made units told of incidents stays.
    """
    name = str(own_slice)
    before = read_note(name, folder, storage)
    incidents = before.incidents if before is not None else None
    note = SliceNote(name, time.time(), socket.gethostname(), shards.start, shards.stop, incidents)
    write_note(note, folder, storage)


def note_incidents(own_slice: Slice, incidents: Iterable[Json], folder: str, storage: Storage) -> None:
    """Note in an output what happened to GPUs while a slice made units, for `finish`."""
    note = read_note(str(own_slice), folder, storage)
    if note is not None:
        write_note(replace(note, incidents=few_incidents(incidents, MOST_INCIDENTS) or None), folder, storage)
