"""Sums up the footers of one shard's units, and sums of shards: what summary.json has of them."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from pipeline.output.computed_on import computed_on
from pipeline.output.footers import Footer, Json
from pipeline.output.repeated import Repeated, unpacked
from pipeline.support.census import Census
from pipeline.support.errors import RunError

State = tuple[int, str]  # size and etag of a shard
Number = TypeVar("Number", int, float)
_VERSION = 1  # of the JSON; sums of another one count as missing
_COUNTS = ("status", "tokens", "seconds", "nodes", "devices")


@dataclass(kw_only=True)
class UnitSums:
    """Holds the sums of some units.

    Args:
        status, tokens, seconds: as in `Totals`.
        nodes, devices: rows by where they were answered.
        spans: of each start of the job (`Footer.attempt`), from its first unit's start to the last one's end.
        question_ids: that came before within one sample.
        hashes: of the samples' keys, in order; None: an earlier release wrote one of the units.
    """

    samples: int = 0
    rows: int = 0
    status: dict[str, int] = field(default_factory=dict)
    tokens: dict[str, int] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    nodes: dict[str, int] = field(default_factory=dict)
    devices: dict[str, int] = field(default_factory=dict)
    spans: dict[str, tuple[float, float]] = field(default_factory=dict)
    census: Census = field(default_factory=Census)
    question_ids: Repeated = field(default_factory=Repeated)
    hashes: NDArray[np.uint64] | None = field(default_factory=lambda: np.empty(0, np.uint64))

    def add_counts(self, other: "UnitSums") -> None:
        """Add the sums of further units, but for the hashes."""
        self.samples += other.samples
        self.rows += other.rows
        _add_each(self.status, other.status)
        _add_each(self.tokens, other.tokens)
        _add_each(self.seconds, other.seconds)
        _add_each(self.nodes, other.nodes)
        _add_each(self.devices, other.devices)
        _add_spans(self.spans, other.spans)
        self.census.add(other.census)
        self.question_ids += other.question_ids


@dataclass(kw_only=True)
class ShardSums(UnitSums):
    """Holds the sums of some units of one shard.

    Args:
        stops: of the units' sample ranges, in order.
        source_size, source_etag: of the shard, as the units' footers have them; "": there is no unit.
        shard_error: why the shard could not be read whole; None: it could.
    """

    shard: int
    stops: list[int] = field(default_factory=list)
    source_size: int = 0
    source_etag: str = ""
    shard_error: str | None = None

    @property
    def units(self) -> int:
        """The number of units."""
        return len(self.stops)

    def are_of(self, stops: list[int], planned: State | None) -> bool:
        """Tell whether these are the sums of exactly these units, of the shard as the plan has it."""
        return self.stops == stops and (self.source_size, self.source_etag) == planned

    def to_json(self) -> Json:
        """Return everything but the hashes, of which there is a digest."""
        data = {name: value for name, value in vars(self).items() if name not in ("census", "hashes")}
        return {
            "version": _VERSION,
            **data,
            "question_ids": asdict(self.question_ids),
            "census": self.census.to_json() if self.census.entries else None,
            "hashes": None if self.hashes is None else digest_of(self.hashes.tobytes()),
        }

    @classmethod
    def from_json(cls, data: Json) -> "ShardSums":
        """Read sums, as yet without hashes; KeyError, TypeError or ValueError if they are not as written."""
        if data["version"] != _VERSION:
            raise ValueError(f"version {data['version']}")
        values = {name: data[name] for name in _FIELDS}
        parsed: dict[str, Any] = {
            **{name: dict(data[name]) for name in _COUNTS},
            "spans": {
                attempt: (float(first), float(last)) for attempt, (first, last) in data["spans"].items()
            },
            "census": Census.from_json(data["census"]) if data["census"] else Census(),
            "question_ids": Repeated(**data["question_ids"]),
            "hashes": None,
        }
        return cls(**values | parsed)


_FIELDS = [one.name for one in fields(ShardSums)]


@dataclass(kw_only=True)
class SumsOfShards(UnitSums):
    """Holds the sums of the units of several shards.

    Args:
        failed: the shards that could not be read whole, in order, each with the reason.
    """

    shards: int = 0
    units: int = 0
    failed: list[tuple[int, str]] = field(default_factory=list)

    def add(self, other: "SumsOfShards") -> None:
        """Add the sums of further shards, but for the hashes."""
        self.add_counts(other)
        self.shards += other.shards
        self.units += other.units
        self.failed += other.failed


def sum_shards(of_shards: Sequence[ShardSums]) -> SumsOfShards:
    """Add up the sums of shards, in their order."""
    total = SumsOfShards(shards=len(of_shards))
    for sums in of_shards:
        total.add_counts(sums)
        total.units += sums.units
        if sums.shard_error:
            total.failed.append((sums.shard, sums.shard_error))
    total.hashes = _joined([(sums.samples, sums.hashes) for sums in of_shards])
    return total


def sum_footers(footers: Iterable[Footer], shard: int, planned: State | None) -> ShardSums:
    """Add up the footers of units of one shard, in their order.

    Args:
        planned: the shard in the plan; None: the plan has no such shard.

    Raises:
        RunError: a unit was made of another state of the shard than the plan's.
    """
    sums = ShardSums(shard=shard)
    hashes: list[tuple[int, NDArray[np.uint64] | None]] = []
    for footer in footers:
        _require_as_planned(footer, planned)
        _add(sums, footer)
        keys = None if footer.sample_keys is None else unpacked(footer.sample_keys)
        hashes.append((footer.samples, keys))
    sums.hashes = _joined(hashes)
    return sums


def _joined(hashes: Sequence[tuple[int, NDArray[np.uint64] | None]]) -> NDArray[np.uint64] | None:
    """Join hashes, each with the number of samples that they are of; None if some are unknown."""
    known = [keys for samples, keys in hashes if keys is not None and len(keys) == samples]
    return np.concatenate([np.empty(0, "<u8"), *known]) if len(known) == len(hashes) else None


def _add(sums: ShardSums, footer: Footer) -> None:
    totals = footer.totals
    sums.stops.append(footer.stop)
    sums.source_size, sums.source_etag = footer.source_size, footer.source_etag
    sums.samples += footer.samples
    sums.rows += totals.rows
    _add_each(sums.status, totals.status)
    _add_each(sums.tokens, totals.tokens)
    _add_each(sums.seconds, totals.seconds)
    _add_each(sums.nodes, {footer.stages["generate"].node: totals.rows})
    _add_each(sums.devices, {computed_on(footer.stages): totals.rows})
    _add_spans(sums.spans, {footer.attempt: (footer.start, footer.end_time)})
    sums.shard_error = sums.shard_error or footer.shard_error
    if footer.census:
        sums.census.add(Census.from_json(footer.census))
    if footer.repeated_question_ids:
        sums.question_ids += Repeated(**footer.repeated_question_ids)


def _add_each(sums: dict[str, Number], more: Mapping[str, Number]) -> None:
    """Add the number of each name."""
    for name, number in more.items():
        sums[name] = sums.get(name, 0) + number


def _add_spans(spans: dict[str, tuple[float, float]], more: dict[str, tuple[float, float]]) -> None:
    """Widen the span of each start of the job."""
    for attempt, (first, last) in more.items():
        begin, end = spans.get(attempt, (first, last))
        spans[attempt] = (min(begin, first), max(end, last))


def digest_of(hashes: bytes) -> str:
    """Hash what a shard's file of keys holds."""
    return hashlib.blake2b(hashes, digest_size=16).hexdigest()


def _require_as_planned(footer: Footer, planned: State | None) -> None:
    """Refuse a unit of an earlier state of its shard, left by a retry that was killed before deleting it."""
    if (footer.source_size, footer.source_etag) != planned:
        raise RunError(
            f"samples {footer.first} to {footer.stop} of shard {footer.shard} were made of another state of "
            "the shard than the plan's: `trimline verify output=... repair=true` removes them, "
            "a rerun makes them again"
        )
