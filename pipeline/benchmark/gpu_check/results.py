"""Declares what a part of the check hands back: claims that hold or not, figures, and tables for people."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from pipeline.support.table import Table

State = Literal["passed", "failed", "broke", "stopped", "left out"]
FAILURES: tuple[State, ...] = ("failed", "broke", "stopped")


@dataclass(frozen=True)
class Claim:
    """Holds a sentence, and whether it was found to hold here."""

    text: str
    holds: bool


@dataclass(frozen=True)
class Measured:
    """Holds what a part measured: claims, tables, and everything else as JSON."""

    claims: tuple[Claim, ...]
    tables: tuple[Table, ...]
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
