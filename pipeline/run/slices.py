"""Cuts a plan into contiguous slices of about the same size, each to be run by itself."""

import json
import re
import socket
import time
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING

from pipeline.output.layout import SLICES
from pipeline.storage.uris import Storage, write_atomic
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


def begin_slice(part: Slice, shards: range, folder: str, run_id: str, storage: Storage) -> None:
    """Write into an output that a slice has begun, and where, for `trimline status` and `finish`."""
    note = {
        "slice": str(part),
        "begun": time.time(),
        "host": socket.gethostname(),
        "first": shards.start,
        "stop": shards.stop,
        "run_id": run_id,
    }
    fs, path = storage.open(folder)
    name = f"{part.number}-of-{part.count}.json"
    write_atomic(fs, f"{path}/{SLICES}/{name}", json.dumps(note, indent=2).encode())
