"""Counts what became of a source's entries: taken as image or sidecar, or passed over, and why."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from pipeline.support.plain_text import printable

_NAMES = 3  # kept of each reason
_NAME_CHARACTERS = 200


class Reason(StrEnum):
    """Says why no sample is made of an entry."""

    HIDDEN = "hidden or temporary"
    OTHER_TYPE = "type that is not read"
    ARCHIVE = "archive that is not read"
    DANGLING = "link that leads nowhere"
    LINK = "link (source.follow_links=true follows it)"
    TOO_MANY_LINKS = "link over more links than the system follows"
    LISTED_ELSEWHERE = "link to a folder that is listed elsewhere"
    OUTPUT = "output of Trimline"
    SPECIAL = "not a file"
    SECOND_SIDECAR = "second sidecar"
    FAR_SIDECAR = "sidecar too far from its image"
    NO_IMAGE = "sidecar without an image"


# Folders and files that programs leave behind, in small letters.
_LEFTOVERS = frozenset(
    {
        *("__macosx", "_temporary", "lost+found", "$recycle.bin", "system volume information"),
        *("@eadir", "#recycle", "thumbs.db", "ehthumbs.db", "desktop.ini"),
    }
)
_SUSPICIOUS = re.compile(r"(?:^|/)[._$@#ldest]", re.IGNORECASE)


def is_hidden(path: str, *, of_tables: bool = False) -> bool:
    """Tell whether a file is hidden, or lies in a hidden folder, by its path below the source's root.

    Args:
        of_tables: names that begin with `_` are hidden, too, as for Spark and pyarrow. A folder `_name=value`
            holds a partition.
    """
    return _SUSPICIOUS.search(path) is not None and any(
        part.lower() in _LEFTOVERS
        or (part.startswith(".") and part not in (".", ".."))
        or (of_tables and part.startswith("_") and "=" not in part)
        for part in path.split("/")
    )


@dataclass(frozen=True)
class PassedOver:
    """Names an entry of which no sample is made."""

    name: str
    reason: Reason


@dataclass
class Census:
    """Counts entries.

    Args:
        images, sidecars: taken as such, usable or not.
        passed_over: how many by reason.
        names: the first names of each reason.
    """

    images: int = 0
    sidecars: int = 0
    passed_over: Counter[str] = field(default_factory=Counter)
    names: dict[str, list[str]] = field(default_factory=dict)

    def pass_over(self, entry: PassedOver) -> None:
        """Count an entry, and keep its name if it is among the first of its reason."""
        self.passed_over[entry.reason] += 1
        names = self.names.setdefault(entry.reason, [])
        if len(names) < _NAMES and (name := printable(entry.name)[:_NAME_CHARACTERS]) not in names:
            names.append(name)

    def take(self, images: int, sidecars: int) -> None:
        """Count entries of which a sample is made."""
        self.images += images
        self.sidecars += sidecars

    def add(self, other: "Census") -> None:
        """Add another census to this one."""
        self.images += other.images
        self.sidecars += other.sidecars
        self.passed_over.update(other.passed_over)
        for reason, names in other.names.items():
            own = self.names.setdefault(reason, [])
            own.extend([name for name in names if name not in own][: _NAMES - len(own)])

    @property
    def entries(self) -> int:
        """How many entries were counted."""
        return self.images + self.sidecars + self.passed_over.total()

    def nothing_taken(self) -> str | None:
        """Describe a shard of which nothing was taken; None: something was, or it has no entries."""
        if self.images or self.sidecars or not self.passed_over:
            return None
        return f"it has no sample, but {self.entries:,} entries: {self.description()}"

    def counts_text(self) -> str:
        """Describe all counts in one line."""
        parts = [f"{self.images:,} images", f"{self.sidecars:,} sidecars"]
        parts += [f"{count:,} passed over as {reason}" for reason, count in sorted(self.passed_over.items())]
        return ", ".join(parts)

    def description(self) -> str:
        """Describe the passed-over entries by reason, with the first names."""
        return "; ".join(
            f"{reason}: {count:,} ({self.first(reason)})" for reason, count in self.passed_over.items()
        )

    def reasons(self) -> dict[str, str]:
        """Return number and first names of the passed-over entries, by reason."""
        return {reason: f"{count:,} ({self.first(reason)})" for reason, count in self.passed_over.items()}

    def first(self, reason: str) -> str:
        """List the first names of a reason."""
        names = self.names[reason]
        return ", ".join([*names, "..."] if self.passed_over[reason] > len(names) else names)

    def to_json(self) -> dict[str, Any]:
        """Return the census as a JSON object."""
        return {
            "images": self.images,
            "sidecars": self.sidecars,
            "passed_over": dict(self.passed_over),
            "names": self.names,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Census":
        """Read a census; KeyError if a key is missing."""
        return cls(data["images"], data["sidecars"], Counter(data["passed_over"]), dict(data["names"]))


def sum_of(parts: Iterable[Census]) -> Census:
    """Add censuses up."""
    total = Census()
    for part in parts:
        total.add(part)
    return total
