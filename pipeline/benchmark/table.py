"""How every benchmark's figures are printed: boxed on a terminal, plain text elsewhere."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from pipeline.benchmark.machine import VERSIONS

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


def show_machine(machine: dict[str, Any]) -> None:
    """Print what all tables below were measured on."""
    gpu = machine["gpu"] or "no GPU"
    versions = ", ".join(f"{name} {machine[name]}" for name in VERSIONS)
    console = _console()
    console.print(f"{machine['processor']}, {machine['cores']} cores, {machine['memory_gib']:g} GiB, {gpu}")
    console.print(f"{versions}; load {machine['load']:.2f} before the start")


def show(table: Table) -> None:
    """Print one table."""
    console = _console()
    boxed = console.is_terminal
    grid = RichTable(box=box.ROUNDED if boxed else None, pad_edge=boxed)
    for number, column in enumerate(table.columns):
        grid.add_column(column, justify="right" if number else "left")
    for row in table.rows:
        grid.add_row(*map(_text, row))
    console.print("", Text(table.title, style="bold"), grid, *table.notes, sep="\n")


def _console() -> Console:
    console = Console(highlight=False, markup=False)
    if not console.is_terminal:
        console.width = _PLAIN_WIDTH
    return console


def _text(cell: Any) -> str:
    """Counts in full, measurements to three digits."""
    if isinstance(cell, float):
        return f"{cell:,.0f}" if abs(cell) >= 1000 else f"{cell:#.3g}".rstrip(".")
    return f"{cell:,}" if isinstance(cell, int) else str(cell)
