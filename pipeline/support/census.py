"""Counts what became of a source's entries: taken as image or sidecar, or passed over, and why."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

_NAMES = 3  # kept of each reason
_NAME_CHARACTERS = 200


class Reason(StrEnum):
    """Says why no sample is made of an entry."""

    HIDDEN = "hidden or temporary"
    OTHER_TYPE = "of a type that is not read"
    ARCHIVE = "an archive that is not read"
    DANGLING = "a link that leads nowhere"
    LINK = "a link that is not followed"
    SPECIAL = "not a file"
    SECOND_SIDECAR = "a second sidecar"
    LATE_SIDECAR = "a sidecar too far behind its image"
    NO_IMAGE = "a sidecar of no image"
    OUTPUT = "of a Trimline output"


# Folders and files that programs leave behind.
_LEFTOVERS = frozenset({"__MACOSX", "_temporary", "lost+found", "$RECYCLE.BIN"})


def is_hidden(path: str) -> bool:
    """Tell whether a file is hidden, or lies in a hidden folder, by its path below the source's root."""
    parts = path.split("/")
    return any(part in _LEFTOVERS or (part.startswith(".") and part not in (".", "..")) for part in parts)


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
        if len(names) < _NAMES:
            names.append(_printable(entry.name)[:_NAME_CHARACTERS])

    def add(self, other: "Census") -> None:
        """Add another census to this one."""
        self.images += other.images
        self.sidecars += other.sidecars
        self.passed_over.update(other.passed_over)
        for reason, names in other.names.items():
            own = self.names.setdefault(reason, [])
            own.extend(names[: _NAMES - len(own)])

    @property
    def entries(self) -> int:
        """How many entries were counted."""
        return self.images + self.sidecars + self.passed_over.total()

    def told(self) -> str:
        """Describe the passed-over entries by reason, with the first names."""
        return "; ".join(
            f"{count:,} {reason} ({self.first(reason)})" for reason, count in self.passed_over.items()
        )

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


def _printable(name: str) -> str:
    """Escape what could command a terminal, or what UTF-8 cannot encode."""
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode()
        for character in name
    )


def sum_of(parts: Iterable[Census]) -> Census:
    """Add censuses up."""
    total = Census()
    for part in parts:
        total.add(part)
    return total
