"""How every benchmark's figures are printed: boxed on a terminal, plain text elsewhere."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

_PLAIN_WIDTH = 10_000  # a file or a pipe has no edge that a line must be folded at


@dataclass(frozen=True)
class Table:
    """Figures for people: the first column names its row, the others are numbers; notes stand below."""

    title: str
    columns: tuple[str, ...]
    rows: Sequence[tuple[Any, ...]]
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        assert all(len(row) == len(self.columns) for row in self.rows), self.title


SPREAD = ("median", "min", "max", "rounds")


def spread(values: Sequence[float]) -> tuple[Any, ...]:
    """The cells under SPREAD: how far a figure's rounds lie apart."""
    return median(values), min(values), max(values), "  ".join(map(_text, values))


def show(table: Table) -> None:
    """Print one table."""
    out = console()
    boxed = out.is_terminal
    grid = RichTable(box=box.ROUNDED if boxed else None, pad_edge=boxed)
    for number, column in enumerate(table.columns):
        grid.add_column(column, justify="right" if number else "left")
    for row in table.rows:
        grid.add_row(*map(_text, row))
    out.print("", Text(table.title, style="bold"), grid, *table.notes, sep="\n")


def console() -> Console:
    """A console for tables; where there is no terminal, lines are never folded."""
    made = Console(highlight=False, markup=False)
    if not made.is_terminal:
        made.width = _PLAIN_WIDTH
    return made


def _text(cell: Any) -> str:
    """Counts in full, measurements to three digits."""
    if isinstance(cell, float):
        return f"{cell:,.0f}" if abs(cell) >= 1000 else f"{cell:#.3g}".rstrip(".")
    return f"{cell:,}" if isinstance(cell, int) else str(cell)
