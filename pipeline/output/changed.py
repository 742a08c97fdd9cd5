"""Finds the files of a plan that have changed in the source since the plan was made."""

from collections.abc import Callable, Iterable, Iterator

from pipeline.output.plan import Plan
from pipeline.sources.base import Shard, Source, files_of
from pipeline.storage.listing import File, list_files
from pipeline.storage.opener import is_over_link
from pipeline.storage.uris import Storage
from pipeline.support.errors import ConfigError, RunError
from pipeline.support.hashes import hashes_of, holds


def changed_files(
    plan: Plan, passed_over: Callable[[int], bool], entries: Iterable[File], storage: Storage
) -> Iterator[tuple[Shard, File]]:
    """Yield the plan's files that the entries lack or hold changed; skips the shards `passed_over`."""
    present = hashes_of(entries)
    for shard in plan.shards(storage):
        for file in () if passed_over(shard.shard) else shard.own_files:
            if not holds(present, file):
                yield shard, file


def require_unchanged(
    plan: Plan,
    is_finished: Callable[[int], bool],
    source: Source,
    storage: Storage,
    reading: Storage | None = None,
) -> None:
    """Raise ConfigError, naming the file, if an unfinished shard's files no longer equal the plan's."""
    entries = files_of(source, reading or storage)
    for shard, file in changed_files(plan, is_finished, entries, storage):
        raise has_changed(shard, file, storage)


def has_changed(shard: Shard, file: File, storage: Storage) -> ConfigError:
    """Make the error for a shard that has changed since the plan was made."""
    link = "; a link leads to it: source.follow_links=true follows links" if is_over_link(file.uri) else ""
    return ConfigError(
        f"shard {shard.shard} has changed or is gone since the run first started: "
        f"{storage.redact(file.uri)}{link}; restore it, or start a new output"
    )


def require_same(shard: Shard, storage: Storage) -> None:
    """Check, just before reading a shard, that its only file still equals the plan's.

    Raises:
        RunError: the file has changed.
        ConfigError: it is gone.
    """
    if shard.files:
        return
    if next(list_files(shard.uri, storage)) != File(shard.uri, shard.size, shard.etag):
        raise RunError(f"shard {shard.shard} has changed during the run: {storage.redact(shard.uri)}")
