"""Writes the rows as they are, as Parquet in folders by the values of some columns."""

from collections.abc import Iterator
from urllib.parse import quote

import pyarrow as pa
import pyarrow.dataset as ds
from fsspec.implementations.local import LocalFileSystem
from pyarrow.fs import FSSpecHandler, PyFileSystem

from pipeline.export.answers import Answers, Written
from pipeline.support.errors import ConfigError
from pipeline.support.plain_text import printable
from pipeline.support.schema import PREDICTIONS

_MOST_FOLDERS, _OPEN_FILES = 1024, 512
_NAME_BYTES = 255  # of one folder
_NULL = "__HIVE_DEFAULT_PARTITION__"  # the name of the folder of nulls


def write_partitions(answers: Answers) -> Written:
    """Write the rows; ConfigError, before anything is written, if values cannot be names of folders."""
    options, storage = answers.options, answers.storage
    _require_names(answers)
    fs, place = storage.open(options.to)
    written = Written()
    if isinstance(fs, LocalFileSystem):
        with storage.reaching("to", options.to):
            fs.makedirs(place, exist_ok=True)

    def batches() -> Iterator[pa.RecordBatch]:
        for shard in answers.numbers():
            for table in answers.tables(shard):
                written.rows += table.num_rows
                yield from table.cast(PREDICTIONS).to_batches()

    ds.write_dataset(
        batches(),
        place,
        schema=PREDICTIONS,
        format="parquet",
        filesystem=PyFileSystem(FSSpecHandler(fs)),
        partitioning=list(options.partition_by) or None,
        partitioning_flavor="hive" if options.partition_by else None,
        use_threads=False,
        max_partitions=_MOST_FOLDERS,
        max_open_files=_OPEN_FILES,
    )
    return written


def _require_names(answers: Answers) -> None:
    """Require that the values make few folders, with names that read back as the values."""
    columns = answers.options.partition_by
    folders: set[tuple[object, ...]] = set()
    for shard in range(len(answers.plan)) if columns else ():
        for table in answers.tables(shard, columns):
            folders.update(zip(*(table[name].to_pylist() for name in columns), strict=True))
            if len(folders) > _MOST_FOLDERS:
                raise ConfigError(f"partition_by: the values make more than {_MOST_FOLDERS:,} folders")
    for values in folders:
        for name, value in zip(columns, values, strict=True):
            if value is not None and not _is_name(name, str(value)):
                text = printable(str(value))[:100]
                raise ConfigError(f"partition_by: a value of {name} cannot be a folder's name: {text}")


def _is_name(column: str, value: str) -> bool:
    """Tell whether a value can name a folder.

    Arrow cuts it at a NUL, and a file system limits its bytes.
    """
    length = len(column) + 1 + len(quote(value, safe=""))
    return "\0" not in value and value != _NULL and length <= _NAME_BYTES
