"""The footer of a unit's file: what it counts, and how it is read."""

import json
from collections import Counter
from collections.abc import Iterable
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.output.units import Finished
from pipeline.storage.uris import Storage
from pipeline.support.errors import RunError
from pipeline.support.parallel import THREADS, each
from pipeline.support.schema import COUNTS, SECONDS

FOOTER = b"trimline"


def totals_of(table: pa.Table) -> dict[str, Any]:
    """Counts by status and sums of tokens and seconds over a table of predictions."""
    sums = {name: pc.sum(table[name]).as_py() or 0 for name in (*COUNTS, *SECONDS)}
    return {
        "rows": table.num_rows,
        "samples": pc.count_distinct(table["sample"]).as_py(),
        "status": dict(Counter(table["status"].to_pylist())),
        **sums,
    }


def read_footer(folder: str, name: str, storage: Storage) -> dict[str, Any]:
    """The footer of a unit's file; RunError if Trimline did not write it."""
    fs, path = storage.open(folder)
    with fs.open(f"{path}/data/{name}", "rb") as file:
        metadata = pq.read_metadata(file).metadata
    if not metadata or FOOTER not in metadata:
        raise RunError(f"data/{name} was not written by Trimline")
    return dict(json.loads(metadata[FOOTER]))


def read_footers(folder: str, finished: Finished, storage: Storage) -> Iterable[dict[str, Any]]:
    """The footer of every finished unit's file, in their order; a few of them are in memory at a time."""
    names = (unit.file_name for unit in finished)
    return each(lambda name: read_footer(folder, name, storage), names, THREADS)
