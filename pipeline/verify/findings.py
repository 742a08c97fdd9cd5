"""Describes the problems of an output, for people and as data."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field

from pipeline.output.units import Unit

KINDS = ("missing", "doubled", "damaged", "changed", "leftover")
_HARMLESS = "leftover"
_MOST_LINES = 50


@dataclass(frozen=True)
class Finding:
    """Describes one problem and where it is.

    Args:
        kind: one of KINDS.
        first, stop: the range of the shard's samples; `stop` None: to its end.
        file: relative to the output, or a URI of the source.
        remove: whether a repair removes the file.
    """

    kind: str
    text: str
    shard: int | None = None
    first: int | None = None
    stop: int | None = None
    file: str | None = None
    remove: bool = False

    @property
    def line(self) -> str:
        """Describe the finding in one line."""
        place = [] if self.shard is None else [f"shard {self.shard}"]
        if self.first is not None:
            place.append(f"[{self.first}, {'end' if self.stop is None else self.stop})")
        if self.file is not None:
            place.append(self.file)
        return f"{self.kind:9}{' '.join(place)}: {self.text}"


def of_unit(kind: str, unit: Unit, text: str, remove: bool = False) -> Finding:
    """Make a finding about a unit's file."""
    return Finding(kind, text, unit.shard, unit.first, unit.stop, f"data/{unit.file_name}", remove)


@dataclass
class Verified:
    """Holds the findings and counts of one output."""

    output: str
    deep: bool = False
    shards: int = 0
    units: int = 0
    rows: int = 0
    findings: list[Finding] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether nothing is missing, doubled, damaged or changed."""
        return all(finding.kind == _HARMLESS for finding in self.findings)

    def to_json(self) -> dict[str, object]:
        """Return everything as data."""
        return {**asdict(self), "ok": self.ok}

    def lines(self) -> Iterator[str]:
        """Describe the first findings by kind, then the notes, then the counts in one line."""
        ordered = sorted(self.findings, key=lambda finding: KINDS.index(finding.kind))
        yield from (finding.line for finding in ordered[:_MOST_LINES])
        if len(ordered) > _MOST_LINES:
            yield f"... and {len(ordered) - _MOST_LINES:,} more: json=FILE has all of them"
        yield from (f"note     {note}" for note in self.notes)
        yield from (f"removed  {file}" for file in self.removed)
        yield f"{self.shards:,} shards, {self.units:,} units, {self.rows:,} rows: {self._verdict()}"

    def _verdict(self) -> str:
        if self.ok:
            return "consistent, and proved against the source" if self.deep else "consistent"
        counts = Counter(finding.kind for finding in self.findings)
        return "not consistent: " + ", ".join(f"{counts[kind]:,} {kind}" for kind in KINDS if counts[kind])
