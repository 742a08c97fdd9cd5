"""One listing of `data/`: every unit there is, and when its file came."""

import os
from collections.abc import Iterator
from contextlib import nullcontext, suppress
from datetime import datetime
from pathlib import Path

import fsspec
from fsspec.implementations.local import LocalFileSystem

from pipeline.storage import Storage, name_of, s3_pages
from pipeline.units import Unit


def units_and_times(output: str, storage: Storage) -> dict[Unit, float]:
    """Each finished unit and when its file was written, in seconds since the epoch; no file is opened."""
    fs, folder = storage.open(output)
    named = ((Unit.of_file(name), time) for name, time in _files(fs, f"{folder}/data"))
    return {unit: time for unit, time in named if unit is not None}


def _files(fs: fsspec.AbstractFileSystem, folder: str) -> Iterator[tuple[str, float]]:
    """Name and time of what is directly in a folder; none if it does not exist."""
    if isinstance(fs, LocalFileSystem):
        with os.scandir(folder) if Path(folder).is_dir() else nullcontext(()) as entries:
            for entry in entries:
                with suppress(FileNotFoundError):  # it was on its way to another name
                    yield entry.name, entry.stat().st_mtime
    elif "s3" in fs.protocol:
        for page in s3_pages(fs, f"{folder}/", Delimiter="/"):
            for item in page.get("Contents", ()):
                yield name_of(item["Key"]), item["LastModified"].timestamp()
    else:
        for info in fs.ls(folder, detail=True) if fs.exists(folder) else ():
            yield name_of(info["name"]), _seconds(info)


def _seconds(info: dict) -> float:
    """The time that another store tells of a file, by whichever name; 0 if it tells none."""
    told = info.get("mtime") or info.get("created") or info.get("LastModified") or 0
    return told.timestamp() if isinstance(told, datetime) else float(told)
