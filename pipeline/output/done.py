"""Keeps the sums of each finished shard in done/, so that its units' footers need not be read again.

`done/<shard>.json` has the sums, `done/<shard>.keys` the hashes of its samples' keys, 8 bytes each. They are
derived: the names in data/ alone say what is finished. Sums of other units than are listed, older than one of
them, or of another state of the source than the plan's, count as missing. The units of a shard may change
under one name, so who is about to make some of them removes the sums before (`forget_sums`).
"""

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from typing import NamedTuple

import fsspec
import numpy as np

from pipeline.output.footers import read_footer
from pipeline.output.layout import DONE
from pipeline.output.plan import Plan
from pipeline.output.sums import ShardSums, State, SumsOfShards, digest_of, sum_footers, sum_shards
from pipeline.output.units import Finished, Unit, units_up_to
from pipeline.storage.flat import list_in_parts
from pipeline.storage.uris import Storage, read_bytes, write_atomic
from pipeline.support.parallel import THREADS, each
from pipeline.support.processes import each_of_many

_SUMS = re.compile(r"(\d{6,})\.json")
_SHARDS_A_PART = 500  # of a listing of a store
_MOST_IN_A_GROUP, _LEAST_GROUPS = 64, 1000  # of shards whose sums are added up together
_FILES_AT_ONCE = 1024  # of the groups that a process is given at a time
_SAMPLES_AT_ONCE = 1 << 19  # the same, whose keys it sends back: 4 MiB


def sums_name(shard: int, suffix: str = "json") -> str:
    """Name the file of a shard's sums, or of its keys, below the output."""
    return f"{DONE}/{shard:06d}.{suffix}"


def times_of_sums(folder: str, planned: int, storage: Storage, only: range | None = None) -> dict[int, float]:
    """List the shards that have sums, valid or not, with the times of writing them.

    Args:
        planned: how many shards the plan has.
        only: shards among these; None: all.
    """
    if only is not None and not only:
        return {}
    fs, path = storage.open(folder)
    shards = range(planned) if only is None else only
    files = list_in_parts(fs, f"{path}/{DONE}", shards, _SHARDS_A_PART, only=only is not None)
    times = {int(match[1]): time for name, time in files if (match := _SUMS.fullmatch(name))}
    return times if only is None else {shard: time for shard, time in times.items() if shard in only}


def shards_with_sums(folder: str, plan: Plan, finished: Finished, storage: Storage) -> set[int]:
    """List the whole shards with sums that are not older than the shard's newest unit.

    Two runs may make one shard at the same time: the sums of the first are not of the second one's files.
    """
    shards = finished.shards
    among = range(int(shards.min()), int(shards.max()) + 1) if finished.count else range(0)
    times, newest = times_of_sums(folder, len(plan), storage, among), finished.newest()
    whole = (shard for shard in times if shard < len(plan) and finished.has_shard(shard))
    return {shard for shard in whole if times[shard] >= newest[shard]}


def read_sums(folder: str, shard: int, storage: Storage, *, keys: bool = True) -> ShardSums | None:
    """Read the sums of a shard; None if they are gone or damaged.

    Args:
        keys: with the hashes of the samples' keys.
    """
    return _read_sums(*storage.open(folder), shard, keys=keys)


def _read_sums(
    fs: fsspec.AbstractFileSystem, path: str, shard: int, *, keys: bool = True
) -> ShardSums | None:
    data = read_bytes(fs, f"{path}/{sums_name(shard)}")
    try:
        tree = json.loads(data or b"")
        sums = ShardSums.from_json(tree)
        stated = tree["hashes"]
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return None
    if stated is not None and keys:
        hashes = read_bytes(fs, f"{path}/{sums_name(shard, 'keys')}")
        if hashes is None or digest_of(hashes) != stated:
            return None
        sums.hashes = np.frombuffer(hashes, "<u8")
    return sums


def write_sums(folder: str, sums: ShardSums, storage: Storage) -> None:
    """Write the sums of a finished shard."""
    fs, path = storage.open(folder)
    if sums.hashes is not None:
        write_atomic(fs, f"{path}/{sums_name(sums.shard, 'keys')}", sums.hashes.astype("<u8").tobytes())
    text = json.dumps(sums.to_json())
    write_atomic(fs, f"{path}/{sums_name(sums.shard)}", text.encode())


def forget_sums(folder: str, shards: Iterable[int], planned: int, storage: Storage) -> None:
    """Remove the sums of shards whose units are about to change; the plan has `planned` shards."""
    fs, path = storage.open(folder)
    wanted = set(shards)
    among = range(min(wanted, default=0), max(wanted, default=-1) + 1)
    doomed = sorted(times_of_sums(folder, planned, storage, among).keys() & wanted)

    def remove(shard: int) -> None:
        for suffix in ("json", "keys"):
            with suppress(FileNotFoundError):
                fs.rm_file(f"{path}/{sums_name(shard, suffix)}")

    for _ in each(remove, doomed, THREADS):
        pass


def make_sums(folder: str, shard: int, planned: State | None, stops: Sequence[int], storage: Storage) -> None:
    """Read the footers of a finished shard's units, and write their sums.

    Args:
        planned: size and etag of the shard in the plan.
        stops: of its units.

    Raises:
        RunError: a unit was made of another state of the shard.
    """
    write_sums(folder, _of_footers(folder, units_up_to(shard, stops), planned, storage), storage)


def sums_of_shards(
    folder: str, plan: Plan, finished: Finished, storage: Storage, only: range | None = None
) -> Iterator[SumsOfShards]:
    """Sum up the finished units, a group of shards at a time, in order; writes the sums that shards lack.

    The groups follow from the shards alone: sums are rounded in the same way whoever adds them up.

    Args:
        only: these shards; None: all that have units.

    Raises:
        RunError: a unit was made of another state of its shard than the plan's.
    """
    known = shards_with_sums(folder, plan, finished, storage)
    shards = [shard for shard in np.unique(finished.shards).tolist() if only is None or shard in only]
    lacking = np.array([shard for shard in shards if shard not in known], np.int64)
    files = len(shards) + int(np.isin(finished.shards, lacking).sum())
    length = max(1, min(_MOST_IN_A_GROUP, len(shards) // _LEAST_GROUPS))
    samples = int((finished.stops - finished.firsts).sum())
    most = min(_FILES_AT_ONCE / max(1, files), _SAMPLES_AT_ONCE / max(1, samples))
    at_once = max(1, int(most * len(shards)) // length)
    states = states_of(plan)
    groups = (
        [_wanted(shard, finished, states, known) for shard in shards[first : first + length]]
        for first in range(0, len(shards), length)
    )
    work = partial(_sums_of_group, folder=folder, storage=storage)
    yield from each_of_many(work, groups, costs=files, at_once=at_once)


def states_of(plan: Plan) -> list[State]:
    """List size and etag of the plan's shards."""
    return list(zip(plan.table["size"].to_pylist(), plan.table["etag"].to_pylist(), strict=True))


class _Wanted(NamedTuple):
    """Names what is summed up: `stops` of a whole shard's units, else the `units` that are there."""

    shard: int
    planned: State | None
    has_sums: bool
    stops: list[int] | None
    units: list[Unit]


def _wanted(shard: int, finished: Finished, states: Sequence[State], known: set[int]) -> _Wanted:
    planned = states[shard] if shard < len(states) else None
    stops = finished.stops_of_whole(shard)
    return _Wanted(shard, planned, shard in known, stops, finished.units(shard) if stops is None else [])


def _sums_of_group(group: Sequence[_Wanted], folder: str, storage: Storage) -> SumsOfShards:
    place = storage.open(folder)
    return sum_shards([_kept(wanted, *place) or _made(wanted, folder, storage) for wanted in group])


def _kept(wanted: _Wanted, fs: fsspec.AbstractFileSystem, path: str) -> ShardSums | None:
    """Read the sums of a whole shard; None if they are missing, or of other units."""
    if wanted.stops is None or not wanted.has_sums:
        return None
    sums = _read_sums(fs, path, wanted.shard)
    return sums if sums is not None and sums.are_of(wanted.stops, wanted.planned) else None


def _made(wanted: _Wanted, folder: str, storage: Storage) -> ShardSums:
    """Sum up the footers of a shard's units; writes the sums of a whole shard."""
    if wanted.stops is None:
        return _of_footers(folder, wanted.units, wanted.planned, storage)
    sums = _of_footers(folder, units_up_to(wanted.shard, wanted.stops), wanted.planned, storage)
    write_sums(folder, sums, storage)
    return sums


def _of_footers(folder: str, units: Sequence[Unit], planned: State | None, storage: Storage) -> ShardSums:
    names = [unit.file_name for unit in units]
    read = partial(read_footer, folder, storage=storage)
    footers = each(read, names, THREADS) if len(names) > THREADS else map(read, names)
    return sum_footers(footers, units[0].shard, planned)
