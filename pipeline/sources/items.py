"""Reads a shard through its source, and holds the source to what it may raise."""

from collections.abc import Iterator

from pipeline.sources.base import Sample, Shard, Source, Wanted
from pipeline.storage.uris import Storage, store_errors
from pipeline.support.census import PassedOver
from pipeline.support.errors import ShardError, TrimlineError, described


def items_of(
    source: Source, shard: Shard, storage: Storage, wanted: Wanted
) -> Iterator[Sample | PassedOver | None]:
    """Yield what `Source.samples` yields.

    Raises:
        ShardError: the rest of the shard cannot be read. What else a source raises, one of a user's own for
            instance, counts as that, too, unless a failing store raises it.
    """
    known: tuple[type[Exception], ...] = (TrimlineError, OSError, *store_errors(shard.uri))
    try:
        yield from source.samples(shard, storage, wanted)
    except known:
        raise
    except Exception as error:
        raise ShardError(f"source {type(source).__name__} raised {described(error)}") from error


def samples_of(source: Source, shard: Shard, storage: Storage, wanted: Wanted) -> Iterator[Sample | None]:
    """Read a shard's samples as `items_of` does, without the entries that are passed over."""
    for item in items_of(source, shard, storage, wanted):
        if not isinstance(item, PassedOver):
            yield item
