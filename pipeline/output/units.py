"""Names the unit files of an output, and tells from a listing which units are finished."""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from pipeline.output.layout import DATA
from pipeline.storage.uris import Storage, list_names, list_times
from pipeline.support.errors import ConfigError
from pipeline.support.fields import counted, require

MAX_UNIT_BYTES = 1 << 30
_NAME = re.compile(r"(\d{6,})-(\d{8,})-(\d{8,})(-end)?\.parquet")


@dataclass(frozen=True, kw_only=True)
class UnitLimits:
    """Configures the limits of a unit: it closes as soon as it reaches one, whatever the hardware."""

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
    """Names samples [first, stop) of one shard; `end` marks the shard's last unit."""

    shard: int
    first: int
    stop: int
    end: bool

    @property
    def file_name(self) -> str:
        """Name the unit's file below data/."""
        return f"{self.shard:06d}-{self.first:08d}-{self.stop:08d}{'-end' if self.end else ''}.parquet"

    @staticmethod
    def of_file(name: str) -> "Unit | None":
        """Parse a file name; None if it is not a unit's."""
        match = _NAME.fullmatch(name)
        return Unit(int(match[1]), int(match[2]), int(match[3]), bool(match[4])) if match else None


class Finished:
    """Holds the finished units of every shard.

    Args:
        names: of the files below data/; others than units' are passed over.

    Raises:
        ConfigError: two units begin at the same sample.
    """

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
        """Map the first sample of each of the shard's finished units to its stop."""
        return {unit.first: unit.stop for unit in self._units.get(shard, {}).values()}

    def units(self, shard: int) -> list[Unit]:
        """List the shard's finished units in order."""
        return [unit for _, unit in sorted(self._units.get(shard, {}).items())]

    def has_shard(self, shard: int) -> bool:
        """Tell whether a shard's units cover it without a gap, from 0 to the one marked as the end."""
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
    """List the finished units of an output; no file is opened."""
    fs, folder = storage.open(output)
    return Finished(list_names(fs, f"{folder}/{DATA}"))


def units_and_times(output: str, storage: Storage) -> dict[Unit, float]:
    """List the finished units with their files' times, in seconds since the epoch; no file is opened."""
    fs, folder = storage.open(output)
    times = ((Unit.of_file(name), time) for name, time in list_times(fs, f"{folder}/{DATA}"))
    return {unit: time for unit, time in times if unit is not None}
