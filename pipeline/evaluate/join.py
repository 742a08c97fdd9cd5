"""Matches predictions of a finished output with references: one to one, or an error naming the key."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace

import pyarrow as pa
import pyarrow.dataset as ds
from pyarrow.fs import FSSpecHandler, PyFileSystem

from pipeline.evaluate.base import Answered, Reference
from pipeline.output.failed_shards import failed_shard
from pipeline.output.opened import Output
from pipeline.output.summary import summary_of
from pipeline.support.errors import ConfigError
from pipeline.support.schema import PREDICTIONS

_COLUMNS = [column.name for column in fields(Answered)]
_ROWS_AT_ONCE = 4096
_FILES_AHEAD = 4
_MOST_NAMED = 3

Key = str | tuple[str, str]


def read_rows(output: Output) -> Iterator[Answered]:
    """Read the rows of a finished output in the order of its files, a few files at a time."""
    fs, _ = output.storage.open(output.folder)
    try:
        table = ds.dataset(
            output.paths(), format="parquet", schema=PREDICTIONS, filesystem=PyFileSystem(FSSpecHandler(fs))
        )
        batches = table.to_batches(
            columns=_COLUMNS, batch_size=_ROWS_AT_ONCE, batch_readahead=1, fragment_readahead=_FILES_AHEAD
        )
        for batch in batches:
            yield from (Answered(**row) for row in batch.to_pylist())
    except (pa.ArrowException, OSError) as error:
        raise ConfigError(f"output: {output.storage.redact(f'{output.folder}: {error}')[:300]}") from None


@dataclass
class Join:
    """Matches rows with references by a key.

    The key is the question_id. Where rows share one (a fixed prompt always has the id 0), it is the image's
    key instead, provided that each image has only one question; `joint` datasets use both together.
    """

    references: Mapping[Key, Reference]
    key: Callable[[Answered], Key]
    seen: set[Key] = field(default_factory=set)

    def match(self, row: Answered) -> Reference:
        """Find a row's reference; ConfigError if there is none, or if another row had it."""
        key = self.key(row)
        reference = self.references.get(key)
        if reference is None:
            raise ConfigError(f"output: {row.key} has no reference: {_shown(key)} is not among the dataset's")
        if key in self.seen:
            raise ConfigError(f"output: {row.key} is the second row of {_shown(key)}")
        self.seen.add(key)
        return reference

    def in_order(self, rows: Iterable[Answered]) -> Iterator[Answered]:
        """Yield matched rows in the order of the references, with the references' question_ids."""
        by_key = {self.key(row): row for row in rows}
        for key, reference in self.references.items():
            if key in by_key:
                yield replace(by_key[key], question_id=reference.question_id)

    def require_all(self, output: Output) -> None:
        """Raise ConfigError, naming the first ones, if references have no row."""
        missing = [key for key in self.references if key not in self.seen]
        if missing:
            named = ", ".join(_shown(key) for key in missing[:_MOST_NAMED])
            raise ConfigError(
                f"output: {len(missing)} of {len(self.references)} questions have no row: {named}"
                f"{', ...' if len(missing) > _MOST_NAMED else ''}; partial=true scores those that have one"
                f"{_broken(output)}"
            )


def _broken(output: Output) -> str:
    """Name the first shard that the output's run could not read whole, where rows may be missing."""
    summary = summary_of(output.folder, output.finished.count, output.storage)
    if summary is None or not summary.failed_shards:
        return ""
    first = summary.failed_shards_named[0]
    line = output.storage.redact(failed_shard(output.plan, first.shard, first.error).line)
    return f"; the run could not read {summary.failed_shards} shards whole: {line}"


def choose_join(references: list[Reference], joint: bool, output: Output) -> Join:
    """Choose the key of an output's rows; ConfigError if the references themselves are not unique."""
    if joint:
        return Join(_indexed(references, _both), _both)
    by_id = _indexed(references, _by_id)
    one_per_image = len({reference.sample_key for reference in references}) == len(references)
    if one_per_image and not _has_unique_ids(output):
        return Join(_indexed(references, _by_sample), _by_sample)
    return Join(by_id, _by_id)


def _has_unique_ids(output: Output) -> bool:
    seen: set[str] = set()
    for row in read_rows(output):
        if row.question_id in seen:
            return False
        seen.add(row.question_id)
    return True


def _indexed(references: list[Reference], key: Callable[[Reference], Key]) -> dict[Key, Reference]:
    index: dict[Key, Reference] = {}
    for reference in references:
        if index.setdefault(key(reference), reference) is not reference:
            raise ConfigError(f"dataset: the official files hold {_shown(key(reference))} twice")
    return index


def _by_id(row: Answered | Reference) -> Key:
    return row.question_id


def _by_sample(row: Answered | Reference) -> Key:
    return row.sample_key


def _both(row: Answered | Reference) -> Key:
    return row.sample_key, row.question_id


def _shown(key: Key) -> str:
    return key if isinstance(key, str) else f"{key[1]} of {key[0]}"
