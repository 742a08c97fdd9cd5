"""Sums up the footers of one shard's units: what summary.json has of the shard."""

import hashlib
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.output.computed_on import computed_on
from pipeline.output.footers import Footer, Json
from pipeline.output.repeated import Repeated, unpacked
from pipeline.support.census import Census
from pipeline.support.errors import RunError

State = tuple[int, str]  # size and etag of a shard
_VERSION = 1  # of the JSON; sums of another one count as missing
COUNTERS = ("status", "tokens", "nodes", "devices")


@dataclass(kw_only=True)
class ShardSums:
    """Holds the sums of some units of one shard.

    Args:
        stops: of the units' sample ranges, in order.
        source_size, source_etag: of the shard, as the units' footers have them; "": there is no unit.
        status, tokens, seconds: as in `Totals`.
        nodes, devices: rows by where they were answered.
        spans: of each start of the job (`Footer.attempt`), from its first unit's start to the last one's end.
        shard_error: why the shard could not be read whole; None: it could.
        question_ids: that came before within one sample.
        hashes: of the samples' keys, in order; None: an earlier release wrote one of the units.
    """

    shard: int
    stops: list[int] = field(default_factory=list)
    source_size: int = 0
    source_etag: str = ""
    samples: int = 0
    rows: int = 0
    status: Counter[str] = field(default_factory=Counter)
    tokens: Counter[str] = field(default_factory=Counter)
    seconds: dict[str, float] = field(default_factory=dict)
    nodes: Counter[str] = field(default_factory=Counter)
    devices: Counter[str] = field(default_factory=Counter)
    spans: dict[str, tuple[float, float]] = field(default_factory=dict)
    shard_error: str | None = None
    census: Census = field(default_factory=Census)
    question_ids: Repeated = field(default_factory=Repeated)
    hashes: NDArray[np.uint64] | None = field(default_factory=lambda: np.empty(0, np.uint64))

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
        fields = {name: data[name] for name in vars(cls(shard=0))}
        parsed: dict[str, Any] = {
            **{name: Counter(data[name]) for name in COUNTERS},
            "spans": {
                attempt: (float(first), float(last)) for attempt, (first, last) in data["spans"].items()
            },
            "census": Census.from_json(data["census"]) if data["census"] else Census(),
            "question_ids": Repeated(**data["question_ids"]),
            "hashes": None,
        }
        return cls(**fields | parsed)


def sum_footers(footers: Iterable[Footer], shard: int, planned: State | None) -> ShardSums:
    """Add up the footers of units of one shard, in their order.

    Args:
        planned: the shard in the plan; None: the plan has no such shard.

    Raises:
        RunError: a unit was made of another state of the shard than the plan's.
    """
    sums = ShardSums(shard=shard)
    hashes: list[NDArray[np.uint64] | None] = []
    for footer in footers:
        _require_as_planned(footer, planned)
        _add(sums, footer)
        keys = None if footer.sample_keys is None else unpacked(footer.sample_keys)
        hashes.append(keys if keys is not None and len(keys) == footer.samples else None)
    known = [keys for keys in hashes if keys is not None]
    sums.hashes = np.concatenate([np.empty(0, "<u8"), *known]) if len(known) == len(hashes) else None
    return sums


def _add(sums: ShardSums, footer: Footer) -> None:
    totals = footer.totals
    sums.stops.append(footer.stop)
    sums.source_size, sums.source_etag = footer.source_size, footer.source_etag
    sums.samples += footer.samples
    sums.rows += totals.rows
    sums.status.update(totals.status)
    sums.tokens.update(totals.tokens)
    add_seconds(sums.seconds, totals.seconds)
    sums.nodes[footer.stages["generate"].node] += totals.rows
    sums.devices[computed_on(footer.stages)] += totals.rows
    add_spans(sums.spans, {footer.attempt: (footer.start, footer.end_time)})
    sums.shard_error = sums.shard_error or footer.shard_error
    if footer.census:
        sums.census.add(Census.from_json(footer.census))
    if footer.repeated_question_ids:
        sums.question_ids += Repeated(**footer.repeated_question_ids)


def add_seconds(sums: dict[str, float], more: dict[str, float]) -> None:
    """Add the seconds of each name."""
    for name, seconds in more.items():
        sums[name] = sums.get(name, 0) + seconds


def add_spans(spans: dict[str, tuple[float, float]], more: dict[str, tuple[float, float]]) -> None:
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
