"""Deletes failed units, so that the next run makes them again.

A job with `retry_failed=true` that is killed here finds the rest of the failed units when it is started
again, since what tells it so is deleted last:

1. every other file of a failed unit (those of the arms in which it did not fail), and of a changed shard;
2. the plan's lines of changed shards are renewed, in every arm;
3. the failed files themselves; of a changed shard one failed file is left until now.

A shard that changed in the source is made again as a whole, since its units may end elsewhere now.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial

from pipeline.output.changed import changed_files, file_now, has_changed
from pipeline.output.done import shards_with_sums
from pipeline.output.footers import read_footers
from pipeline.output.layout import DATA
from pipeline.output.plan import Plan, load_plan
from pipeline.output.summary import take_back_success
from pipeline.output.units import Finished, Unit, finished_units
from pipeline.output.valid_sums import valid_sums
from pipeline.run.slices import Slice
from pipeline.sources.base import Shard, Source, files_of
from pipeline.storage.listing import File
from pipeline.storage.paths import path_of_text
from pipeline.storage.uris import Storage
from pipeline.support.errors import ConfigError
from pipeline.support.parallel import THREADS, each


@dataclass(frozen=True, order=True)
class _UnitFile:
    """Names a unit's file in one arm's output."""

    unit: Unit
    folder: str


def delete_failed_units(
    folders: Sequence[str],
    source: Source,
    statuses: Sequence[str],
    limit: int | None,
    storage: Storage,
    reading: Storage | None = None,
    own_slice: Slice | None = None,
) -> None:
    """Delete every unit that has a row of one of these statuses, or whose shard broke off in it.

    Args:
        folders: the outputs of all arms; a unit is deleted in all of them.
        limit: under which they were planned.
        storage, reading: how to reach the outputs and the source; None: both the same way.
        own_slice: the slice whose shards are retried; None: all.

    Raises:
        ConfigError: a shard that is still to be made has changed or is gone, or a changed one cannot be made
            again by itself. Nothing was deleted then.
    """
    plans = [plan for folder in folders if (plan := load_plan(folder, storage)) is not None]
    own = own_slice.shards_of(plans[0]) if own_slice and plans else None
    finished = {
        plan.folder: finished_units(plan.folder, storage, only=own, planned=len(plan)) for plan in plans
    }
    failed = [
        _UnitFile(unit, plan.folder)
        for plan in plans
        for unit in _failed(plan, finished[plan.folder], statuses, storage)
    ]
    if not failed:
        return
    retried = {file.unit.shard for file in failed}
    if plans:
        source = source.relocated(path_of_text(plans[0].source))
    changed = _changed_shards(plans, finished, retried, source, limit, storage, reading or storage, own)
    first, last = _deletions(failed, finished, changed)
    for folder in finished:
        take_back_success(folder, storage)
    _delete(first, storage)
    for plan in plans:
        plan.renew(changed, storage)
    _delete(last, storage)


def _deletions(
    failed: Sequence[_UnitFile], finished: Mapping[str, Finished], changed: Mapping[int, Shard]
) -> tuple[list[_UnitFile], list[_UnitFile]]:
    """Split the files to delete into those to delete before and after the plans are renewed."""
    one_of_shard = {file.unit.shard: file for file in failed if file.unit.shard in changed}
    last = {*one_of_shard.values(), *(file for file in failed if file.unit.shard not in changed)}
    units = {file.unit for file in last}
    files = (_UnitFile(unit, folder) for folder, in_folder in finished.items() for unit in in_folder)
    doomed = (file for file in files if file.unit in units or file.unit.shard in changed)
    return [file for file in doomed if file not in last], sorted(last)


def _failed(plan: Plan, finished: Finished, statuses: Sequence[str], storage: Storage) -> Iterator[Unit]:
    """Find the units that failed; reads no footer of a shard whose sums tell that none did."""

    def has_failed(shard_error: str | None, status: Mapping[str, int]) -> bool:
        return bool(shard_error) or any(status.get(name) for name in statuses)

    summed = sorted(shards_with_sums(plan.folder, plan, finished, storage))
    sound = {
        sums.shard
        for sums in valid_sums(plan.folder, plan, finished, summed, storage)
        if not has_failed(sums.shard_error, sums.status)
    }
    doubtful = Finished(unit.file_name for unit in finished if unit.shard not in sound)
    for footer in read_footers(plan.folder, doubtful, storage):
        if has_failed(footer.shard_error, footer.totals.status):
            yield footer.unit


def _delete(files: Iterable[_UnitFile], storage: Storage) -> None:
    def remove(file: _UnitFile) -> None:
        fs, path = storage.open(f"{file.folder}/{DATA}/{file.unit.file_name}")
        with suppress(FileNotFoundError):  # the same slice may be under way elsewhere
            fs.rm_file(path)

    for _ in each(remove, files, THREADS):
        pass


def _changed_shards(
    plans: Sequence[Plan],
    finished: Mapping[str, Finished],
    retried: set[int],
    source: Source,
    limit: int | None,
    storage: Storage,
    reading: Storage,
    own: range | None,
) -> dict[int, Shard]:
    """Find the retried shards that have changed since a plan was made, and make them as they are now."""

    def is_passed_over(shard: int) -> bool:
        return shard not in retried and all(units.has_shard(shard) for units in finished.values())

    look, entries = partial(file_now, source, storage=reading), partial(files_of, source, reading)
    planned: dict[int, Shard] = {}
    for number, plan in enumerate(plans):
        # plans differ if an earlier retry was killed while it renewed them
        if number and plan.lines(own).equals(plans[0].lines(own)):
            continue
        for shard, file in changed_files(plan, is_passed_over, entries, look, storage, own):
            if shard.shard not in retried:
                raise has_changed(shard, file, storage)
            planned[shard.shard] = shard
    uris = sorted({file.uri for shard in planned.values() for file in shard.own_files})
    files = {file.uri: file for file in each(look, uris, THREADS) if file is not None}
    return {number: _as_now(shard, files, source, limit, reading) for number, shard in planned.items()}


def _as_now(
    shard: Shard, files: Mapping[str, File], source: Source, limit: int | None, storage: Storage
) -> Shard:
    """Make the shard again from the current state of its files.

    Args:
        files: those of the source, by URI.
    """
    for file in shard.own_files:
        if file.uri not in files:
            raise has_changed(shard, file, storage)
    shards = source.shards([files[file.uri] for file in shard.own_files], storage)
    renewed = next((candidate for candidate in shards if candidate.uri == shard.uri), None)
    if renewed is None:
        raise ConfigError(
            f"retry_failed: shard {shard.shard} is a part of a file that has changed, whose parts begin "
            f"elsewhere now: {storage.redact(shard.uri)}; restore the file, or start a new output"
        )
    samples = renewed.samples
    if limit is not None and shard.samples is not None:
        samples = min(shard.samples, renewed.samples or shard.samples)
    return replace(renewed, shard=shard.shard, samples=samples)
