"""Room for what failed, so that a run makes it again.

A range is deleted in every arm, the file that is the reason for it last. A shard that was mended in the
source since is made again whole, since its units may end elsewhere: all its files go but one that is a
reason, then its line in every plan is renewed, then that one goes. So the same command goes on wherever it
was killed.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from pipeline.output.footers import read_footers
from pipeline.output.plan import Plan, changed_files, has_changed, load_plan
from pipeline.output.summary import take_back_success
from pipeline.output.units import Finished, Unit, finished_units
from pipeline.sources.base import Shard, Source
from pipeline.storage.listing import File
from pipeline.storage.uris import Storage
from pipeline.support.errors import ConfigError
from pipeline.support.parallel import THREADS, each


@dataclass(frozen=True, order=True)
class _File:
    unit: Unit
    folder: str


def make_room(
    folders: Sequence[str], source: Source, statuses: Sequence[str], limit: int | None, storage: Storage
) -> None:
    """Delete every range that has a row of one of these statuses, or could not be read whole.

    Args:
        folders: the outputs of all arms.
        limit: under which they were planned.

    Raises:
        ConfigError: a shard that is still to be made has changed or is gone, or a mended one cannot be made
            again by itself; nothing was deleted then.
    """
    plans = [plan for folder in folders if (plan := load_plan(folder, storage)) is not None]
    finished = {plan.folder: finished_units(plan.folder, storage) for plan in plans}
    reasons = [
        _File(unit, folder)
        for folder, some in finished.items()
        for unit in _failed(folder, some, statuses, storage)
    ]
    if not reasons:
        return
    mended = _mended(plans, finished, {reason.unit.shard for reason in reasons}, source, limit, storage)
    kept = {reason.unit.shard: reason for reason in reasons if reason.unit.shard in mended}
    there = [_File(unit, folder) for folder, some in finished.items() for unit in some]
    of_mended = (file for file in there if file.unit.shard in mended and file not in kept.values())
    failed = {reason.unit for reason in reasons if reason.unit.shard not in mended}
    beside = (file for file in there if file.unit in failed and file not in set(reasons))
    for folder in finished:
        take_back_success(folder, storage)
    _delete([*of_mended, *beside], storage)
    for plan in plans:
        plan.renew(mended, storage)
    _delete([*kept.values(), *(reason for reason in reasons if reason.unit in failed)], storage)


def _failed(folder: str, finished: Finished, statuses: Sequence[str], storage: Storage) -> Iterable[Unit]:
    for footer in read_footers(folder, finished, storage):
        if footer.shard_error or any(footer.totals.status.get(status) for status in statuses):
            yield footer.unit


def _delete(files: Iterable[_File], storage: Storage) -> None:
    def remove(file: _File) -> None:
        fs, path = storage.open(f"{file.folder}/data/{file.unit.file_name}")
        fs.rm_file(path)

    for _ in each(remove, files, THREADS):
        pass


def _mended(
    plans: Sequence[Plan],
    finished: Mapping[str, Finished],
    retried: set[int],
    source: Source,
    limit: int | None,
    storage: Storage,
) -> dict[int, Shard]:
    """The shards to be retried that are not as the plan has them, as they are now."""

    def passed_over(shard: int) -> bool:
        return shard not in retried and all(some.has_shard(shard) for some in finished.values())

    changed: dict[int, Shard] = {}
    for number, plan in enumerate(plans):
        # they differ where a renewal was interrupted
        if number and plan.table.equals(plans[0].table):
            continue
        for shard, file in changed_files(plan, passed_over, source.entries(storage), storage):
            if shard.shard not in retried:
                raise has_changed(shard, file, storage)
            changed[shard.shard] = shard
    names = {file.uri for shard in changed.values() for file in shard.own_files}
    now = {file.uri: file for file in source.entries(storage) if file.uri in names} if names else {}
    return {number: _as_now(shard, now, source, limit, storage) for number, shard in changed.items()}


def _as_now(
    shard: Shard, now: Mapping[str, File], source: Source, limit: int | None, storage: Storage
) -> Shard:
    """The shard that takes the place of one, made of the same files as they are now."""
    for file in shard.own_files:
        if file.uri not in now:
            raise has_changed(shard, file, storage)
    made = source.shards([now[file.uri] for file in shard.own_files], storage)
    new = next((one for one in made if one.uri == shard.uri), None)
    if new is None:
        raise ConfigError(
            f"retry_failed: shard {shard.shard} is a part of a file that has changed, whose parts begin "
            f"elsewhere now: {storage.redact(shard.uri)}; restore the file, or start a new output"
        )
    samples = new.samples
    if limit is not None and shard.samples is not None:
        samples = min(shard.samples, new.samples or shard.samples)
    return replace(new, shard=shard.shard, samples=samples)
