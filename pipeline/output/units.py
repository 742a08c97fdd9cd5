"""Units: ranges of samples of one shard, and the files that say which of them are finished."""

import os
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import fsspec
from fsspec.implementations.local import LocalFileSystem

from pipeline.output.layout import DATA
from pipeline.storage.uris import Storage, list_names, name_of, s3_pages
from pipeline.support.errors import ConfigError
from pipeline.support.fields import counted, require

MAX_UNIT_BYTES = 1 << 30
_NAME = re.compile(r"(\d{6,})-(\d{8,})-(\d{8,})(-end)?\.parquet")


@dataclass(frozen=True, kw_only=True)
class UnitLimits:
    """A unit closes as soon as it holds one of these; they and the input alone decide where."""

    unit_samples: int = counted(64)
    unit_requests: int = counted(128)
    unit_bytes: int = counted(64 << 20)
    max_questions: int = counted(128)

    def __post_init__(self) -> None:
        for key in ("unit_samples", "unit_requests", "unit_bytes", "max_questions"):
            require(getattr(self, key) >= 1, f"{key} must be at least 1")
        require(
            self.max_questions <= 10_000, "max_questions must be at most 10000 (a key has four digits for it)"
        )
        require(self.unit_bytes <= MAX_UNIT_BYTES // 2, f"unit_bytes must be at most {MAX_UNIT_BYTES // 2}")


@dataclass(frozen=True, order=True)
class Unit:
    """Samples [first, stop) of one shard; `end` marks the shard's last unit."""

    shard: int
    first: int
    stop: int
    end: bool

    @property
    def file_name(self) -> str:
        """The name of the unit's file under `data/`."""
        return f"{self.shard:06d}-{self.first:08d}-{self.stop:08d}{'-end' if self.end else ''}.parquet"

    @staticmethod
    def of_file(name: str) -> "Unit | None":
        """The unit that a file name stands for, or None if it is no unit's."""
        match = _NAME.fullmatch(name)
        return Unit(int(match[1]), int(match[2]), int(match[3]), bool(match[4])) if match else None


class Finished:
    """The finished ranges of every shard, read off the names of a listing."""

    def __init__(self, names: Iterable[str]) -> None:
        self._units: dict[int, dict[int, Unit]] = defaultdict(dict)
        self.count = 0
        for unit in filter(None, map(Unit.of_file, names)):
            self._add(unit)

    def _add(self, unit: Unit) -> None:
        other = self._units[unit.shard].setdefault(unit.first, unit)
        if other is not unit:
            raise ConfigError(
                f"the output holds two files for one range: {other.file_name}, {unit.file_name}; "
                "`trimline verify output=... repair=true` removes them, and a rerun makes the range again"
            )
        self.count += 1

    def ranges(self, shard: int) -> dict[int, int]:
        """first -> stop of the shard's finished units."""
        return {unit.first: unit.stop for unit in self._units.get(shard, {}).values()}

    def units(self, shard: int) -> list[Unit]:
        """The shard's finished units in order."""
        return [unit for _, unit in sorted(self._units.get(shard, {}).items())]

    def has_shard(self, shard: int) -> bool:
        """Whether the files tile [0, end) and the last one is marked as the end."""
        position = 0
        for unit in self.units(shard):
            if unit.first != position:
                return False
            if unit.end:
                return True
            position = unit.stop
        return False

    def __iter__(self) -> Iterator[Unit]:
        for shard in sorted(self._units):
            yield from self.units(shard)


def finished_units(output: str, storage: Storage) -> Finished:
    """The finished ranges of an output, as its listing tells them now."""
    fs, folder = storage.open(output)
    return Finished(list_names(fs, f"{folder}/{DATA}"))


def units_and_times(output: str, storage: Storage) -> dict[Unit, float]:
    """Each finished unit and when its file was written, in seconds since the epoch; no file is opened."""
    fs, folder = storage.open(output)
    named = ((Unit.of_file(name), time) for name, time in _files(fs, f"{folder}/{DATA}"))
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
