"""Reads the requests of a run or a comparison as one table: the question, and every arm's answer."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
from pyarrow.fs import FSSpecHandler, PyFileSystem

from pipeline.output.layout import COMPARISON_TABLE
from pipeline.output.opened import Output
from pipeline.storage.uris import Storage
from pipeline.support.errors import ConfigError
from pipeline.support.schema import PREDICTIONS

_ROWS_AT_ONCE = 16384


@dataclass(frozen=True)
class Requests:
    """Reads the rows of a run or comparison; an arm's column is `<column>.<arm>`, in a single run, too."""

    folder: str
    paths: tuple[str, ...]
    arms: tuple[str, ...]
    joined: bool  # the files name the arms themselves, as comparison.parquet does

    def tables(
        self,
        shared: Sequence[str],
        of_arms: Sequence[str],
        storage: Storage,
        keys: Sequence[str] | None = None,
    ) -> Iterator[pa.Table]:
        """Read batches of rows, in the order of the files; a column that the files lack is left out.

        Args:
            shared: columns of the request itself.
            of_arms: columns that each arm has.
            keys: only these requests; None: all.

        Raises:
            ConfigError: a file is damaged or gone.
        """
        fs, _ = storage.open(self.folder)
        try:
            data = ds.dataset(
                list(self.paths),
                format="parquet",
                schema=None if self.joined else PREDICTIONS,
                filesystem=PyFileSystem(FSSpecHandler(fs)),
            )
            existing = set(data.schema.names)
            named = [(name, name) for name in shared]
            named += [
                (f"{name}.{arm}", f"{name}.{arm}" if self.joined else name)
                for arm in self.arms
                for name in of_arms
            ]
            columns = {name: ds.field(column) for name, column in named if column in existing}
            chosen = None if keys is None else pc.field("key").isin(list(keys))
            for batch in data.to_batches(columns=columns, filter=chosen, batch_size=_ROWS_AT_ONCE):
                yield pa.Table.from_batches([batch])
        except (pa.ArrowException, OSError) as error:
            raise ConfigError(f"output: {storage.redact(f'{self.folder}: {error}')[:300]}") from None


def requests_of_run(output: Output) -> Requests:
    """Return the requests of a finished output, whose only arm has the name of its reducer."""
    paths = tuple(output.paths())
    fs, _ = output.storage.open(output.folder)
    rows = ds.dataset(
        list(paths), format="parquet", schema=PREDICTIONS, filesystem=PyFileSystem(FSSpecHandler(fs))
    )
    names = rows.head(1, columns=["reducer"], batch_readahead=0, fragment_readahead=1)["reducer"].to_pylist()
    return Requests(output.folder, paths, (names[0] if names else "answers",), joined=False)


def requests_of_comparison(folder: str, arms: Sequence[str], storage: Storage) -> Requests:
    """Return the requests of a comparison, from its comparison.parquet."""
    _, path = storage.open(folder)
    return Requests(folder, (f"{path}/{COMPARISON_TABLE}",), tuple(arms), joined=True)
