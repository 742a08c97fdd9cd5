"""Copies, changes and compares the finished outputs of arms."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.compare.compare import compare_outputs
from pipeline.storage.uris import Storage

STORAGE = Storage()
Rows = list[dict[str, Any]]


def copied(output: Path, to: Path) -> Path:
    """Copy an output."""
    shutil.copytree(output, to)
    return to


def change(output: Path, edit: Callable[[Rows], Rows], unit: int | None = None) -> Path:
    """Pass the rows of an output's unit files (all, or one of them) through `edit`; the footers stay."""
    files = sorted((output / "data").iterdir())
    for file in files if unit is None else [files[unit]]:
        table = pq.read_table(file)
        pq.write_table(pa.Table.from_pylist(edit(table.to_pylist()), schema=table.schema), file)
    return output


def compared(place: Path, arms: dict[str, Path], **options: Any) -> dict[str, Any]:
    """Compare outputs, the first as baseline, and return the content of comparison.json."""
    settings = {"baseline": next(iter(arms)), "resamples": 200, **options}
    outputs = {name: str(output) for name, output in arms.items()}
    return compare_outputs(outputs, place=str(place), storage=STORAGE, **settings).to_json()
