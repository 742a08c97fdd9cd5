"""Makes the plan of an output, extends it, and copies it to the other arms' outputs."""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, islice, pairwise

import numpy as np

from pipeline.output.layout import PLAN
from pipeline.output.plan import Plan, load_plan
from pipeline.output.plan_parts import is_first_part, write_growth
from pipeline.sources.base import Shard, Source, Want, files_of
from pipeline.sources.items import samples_of
from pipeline.storage.create import create_atomic
from pipeline.storage.listing import File, naming_key
from pipeline.storage.paths import joined_texts, source_text
from pipeline.storage.uris import Storage, write_atomic
from pipeline.support.census import Census
from pipeline.support.errors import ConfigError, ShardError
from pipeline.support.hashes import holds


def make_plan(
    output: str,
    source: Source,
    limit: int | None,
    storage: Storage,
    reading: Storage | None = None,
    before_commit: Callable[[], object] | None = None,
) -> Plan:
    """List the source and store the listing; `limit` takes only the first samples.

    If another run has stored its listing meanwhile, that one is returned.

    Args:
        storage, reading: how to reach the output and the source; None: both the same way.
        before_commit: called when the source has been listed, before the output has a plan.

    Raises:
        ConfigError: the source lists nothing.
    """
    census, reading = Census(), reading or storage
    shards = source.shards(files_of(source, reading, census), reading)
    if limit is not None:
        shards = _first_samples(shards, source, limit, reading)
    with naming_key(reading):
        text = source_text(source.path, reading)
    write_growth(output, text, shards, storage, census, before_commit)
    plan = load_plan(output, storage)
    assert plan is not None, "a plan was just written"
    return plan


def extend_plan(plan: Plan, source: Source, storage: Storage, reading: Storage | None = None) -> Plan:
    """Append the shards of files that are new in the source, by their names.

    The source may have other paths than the plan, which then has them, too. If another run has extended the
    plan meanwhile, what is new beyond that is appended.

    Raises:
        ConfigError: a file that the plan holds, finished or not, has changed in the source.
    """
    reading = reading or storage
    while True:
        census, known = Census(), len(plan)
        new = new_files(plan, files_of(source, reading, census), storage, refuse_changed=True)
        shards = (
            dataclasses.replace(shard, shard=known + shard.shard) for shard in source.shards(new, reading)
        )
        first = next(shards, None)
        if first is None:
            return plan
        paths = joined_texts(plan.source, source_text(source.path, reading))
        is_ours = write_growth(plan.folder, paths, chain([first], shards), storage, census)
        grown = load_plan(plan.folder, storage)
        assert grown is not None, "a growth was just written"
        if is_ours:
            return grown
        plan = grown


def share_plan(plan: Plan, folder: str, storage: Storage, among: range | None = None) -> Plan:
    """Copy what another output lacks of the plan's files, and return that output's plan.

    Args:
        among: the shards whose lines must be equal; others may just be renewed by other runs. None: all.

    Raises:
        ConfigError: that output has another plan.
    """
    if plan.folder == folder:
        return plan
    earlier = load_plan(folder, storage)
    known = earlier.parts if earlier is not None else ()
    is_same = known == plan.parts[: len(known)] and (earlier is None or _agree(earlier, plan, among))
    if not (is_same and _copy(plan, len(known), len(earlier or ()), folder, storage)):
        raise ConfigError(
            f"{storage.redact(folder)} and {storage.redact(plan.folder)} were started on different listings "
            "of the source: choose another output"
        )
    return dataclasses.replace(plan, folder=folder)


def _agree(earlier: Plan, plan: Plan, among: range | None) -> bool:
    """Tell whether a plan has the lines of an earlier one."""
    known = range(len(earlier))
    own = known if among is None else known[among.start : among.stop]
    are_listed_alike = earlier.listed.equals(plan.listed[: len(earlier)])
    return bool(are_listed_alike and earlier.lines(own).equals(plan.lines(own)))


def _copy(plan: Plan, parts: int, shards: int, folder: str, storage: Storage) -> bool:
    """Copy the plan's files beyond so many parts and shards; False if another plan's file is in the way."""
    from_fs, from_folder = storage.open(plan.folder)
    to_fs, to_folder = storage.open(folder)
    renewed = [name for shard, name in plan.renewed.items() if shard >= shards]
    with storage.reaching("output", folder):
        # renewed lines first: no plan without them may be there, nor a growth without its further parts
        for name in (*renewed, *_firsts_last(plan.parts[parts:])):
            data = from_fs.cat_file(f"{from_folder}/{PLAN}/{name}")
            target = f"{to_folder}/{PLAN}/{name}"
            if not is_first_part(name):
                write_atomic(to_fs, target, data)
            elif not create_atomic(to_fs, target, data):
                return False
    return True


def _firsts_last(parts: Sequence[str]) -> Iterator[str]:
    """Yield the parts of each growth, its first part last."""
    starts = [number for number, name in enumerate(parts) if is_first_part(name)]
    for first, stop in pairwise([*starts, len(parts)]):
        yield from parts[first + 1 : stop]
        yield parts[first]


def new_files(
    plan: Plan, entries: Iterable[File], storage: Storage, *, refuse_changed: bool = False
) -> Iterator[File]:
    """List the entries whose URIs are not in the plan.

    Raises:
        ConfigError: `refuse_changed`, and a file that the plan holds has changed since.
    """
    known = (file for shard in plan.shards(storage) for file in shard.own_files)
    pairs = np.fromiter(((hash(file.uri), hash(file)) for file in known), np.dtype((np.int64, 2)))
    names, files = np.sort(pairs.T)
    for file in entries:
        if not holds(names, file.uri):
            yield file
        elif refuse_changed and not holds(files, file):
            raise ConfigError(
                f"{storage.redact(file.uri)} has changed since the run first started, and extend=true takes "
                "new files only: restore it and put what is new into another file, or start a new output"
            )


def _first_samples(shards: Iterable[Shard], source: Source, limit: int, storage: Storage) -> Iterator[Shard]:
    remaining = limit
    for shard in shards:
        samples = samples_of(source, shard, storage, lambda _: Want.NOTHING)
        try:
            count = sum(1 for _ in islice(samples, remaining + 1))
        except ShardError:
            count = remaining + 1  # counts as too many: the run itself reads as far as it can
        yield dataclasses.replace(shard, samples=remaining) if count > remaining else shard
        remaining -= min(count, remaining)
        if remaining == 0:
            return
