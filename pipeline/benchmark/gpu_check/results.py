"""Declares what a part of the check hands back: claims that hold or not, figures, and tables for people."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

State = Literal["passed", "failed", "broke", "stopped", "left out"]
FAILURES: tuple[State, ...] = ("failed", "broke", "stopped")


@dataclass(frozen=True)
class Claim:
    """Holds a sentence, and whether it was found to hold here."""

    text: str
    holds: bool


@dataclass(frozen=True)
class Sheet:
    """Holds a table of a part; the first column names its row."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]  # texts and numbers
    note: str = ""


@dataclass(frozen=True)
class Measured:
    """Holds what a part measured: claims, tables, and everything else as JSON."""

    claims: tuple[Claim, ...]
    sheets: tuple[Sheet, ...]
    figures: Mapping[str, Any] = field(default_factory=dict)  # JSON of any form


@dataclass(frozen=True)
class Result:
    """Holds how a part of the check ended, after how many seconds.

    `broke`: it raised or died; `stopped`: its time was over; `left out`: this machine lacks what it needs.
    `error` says why in one line; `traceback` has more.
    """

    part: str
    state: State
    seconds: float = 0.0
    measured: Measured | None = None
    error: str = ""
    traceback: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return the result as a tree for json.dumps."""
        return asdict(self)


def pack_measured(measured: Measured) -> bytes:
    """Write what a part measured for the process that started it."""
    return json.dumps(asdict(measured)).encode()


def unpack_measured(data: bytes) -> Measured:
    """Read what `pack_measured` wrote."""
    tree = json.loads(data)
    sheets = (
        Sheet(each["title"], tuple(each["columns"]), tuple(map(tuple, each["rows"])), each["note"])
        for each in tree["sheets"]
    )
    return Measured(tuple(Claim(**claim) for claim in tree["claims"]), tuple(sheets), tree["figures"])
