"""Finds the files of a plan that have changed in the source since the plan was made."""

from collections.abc import Callable, Iterable, Iterator
from functools import partial

from pipeline.output.plan import Plan
from pipeline.sources.base import Shard, Source, files_of
from pipeline.storage.listing import File, file_at, list_files
from pipeline.storage.opener import is_over_link, open_file
from pipeline.storage.uris import Storage
from pipeline.support.errors import ConfigError, RunError
from pipeline.support.hashes import hashes_of, holds
from pipeline.support.parallel import THREADS, each

# S3 lists some 20 files in the time in which it tells about one, both by several threads. The shards of a
# plan have about the same number of files.
_FILES_LISTED = 20


def file_now(source: Source, uri: str, storage: Storage) -> File | None:
    """Look up a file that a plan names, whether or not the source lists it now.

    None: it is gone, or a link leads to it that the source does not follow.
    """
    file = file_at(uri, storage)
    if file is not None and is_over_link(uri):
        try:
            root = source.root_of(uri, storage)
            open_file(uri, root, storage, follow_links=source.follow_links).close()
        except OSError:
            return None
    return file


def changed_files(
    plan: Plan,
    passed_over: Callable[[int], bool],
    entries: Callable[[], Iterable[File]],
    file_at: Callable[[str], File | None],
    storage: Storage,
    among: range | None = None,
) -> Iterator[tuple[Shard, File]]:
    """Yield the plan's files that have changed or are gone; skips the shards `passed_over`.

    A file that the entries lack may be one that the source no longer lists, such as a hidden one, which
    0.1.0 read. So it is looked up by its name before it counts as changed. Where looking up all files takes
    less than listing the source, it is not listed.

    Args:
        entries: lists the source's files as they are now.
        file_at: looks up one file by its URI.
        among: looks at these consecutive shards only; None: at all.
    """
    looked_at = sum(not passed_over(shard) for shard in (range(len(plan)) if among is None else among))
    if not looked_at:
        return
    present = hashes_of(entries() if _FILES_LISTED * looked_at >= len(plan) else ())
    missing = (
        (shard, file)
        for shard in plan.shards(storage, among)
        if not passed_over(shard.shard)
        for file in shard.own_files
        if not holds(present, file)
    )

    def found(item: tuple[Shard, File]) -> tuple[Shard, File, File | None]:
        return *item, file_at(item[1].uri)

    for shard, file, now in each(found, missing, THREADS):
        if not file.is_same(now):
            yield shard, file


def require_unchanged(
    plan: Plan,
    is_finished: Callable[[int], bool],
    source: Source,
    storage: Storage,
    reading: Storage | None = None,
    among: range | None = None,
) -> None:
    """Raise ConfigError, naming the file, if an unfinished shard's files no longer equal the plan's.

    Args:
        among: looks at these consecutive shards only; None: at all.
    """
    reading = reading or storage
    look = partial(file_now, source, storage=reading)
    entries = partial(files_of, source, reading)
    for shard, file in changed_files(plan, is_finished, entries, look, storage, among):
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
    if not File(shard.uri, shard.size, shard.etag).is_same(next(list_files(shard.uri, storage))):
        raise RunError(f"shard {shard.shard} has changed during the run: {storage.redact(shard.uri)}")
