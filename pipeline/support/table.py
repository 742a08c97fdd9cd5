"""Prints tables of figures: boxed on a terminal, plain text elsewhere."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from rich import box
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from pipeline.support.plain_text import printable
from pipeline.support.words import cell_text

_PLAIN_WIDTH = 10_000  # a file or a pipe has no edge that a line must be folded at


@dataclass(frozen=True)
class Table:
    """Holds figures for people: the first column names its row, the others are numbers, notes come last."""

    title: str
    columns: tuple[str, ...]
    rows: Sequence[tuple[object, ...]]
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        assert all(len(row) == len(self.columns) for row in self.rows), self.title


SPREAD = ("median", "min", "max", "rounds")


def spread_cells(values: Sequence[float]) -> tuple[object, ...]:
    """Return the cells of the columns SPREAD: how far a figure's rounds lie apart."""
    return median(values), min(values), max(values), "  ".join(map(cell_text, values))


def show(table: Table) -> None:
    """Print one table."""
    out = console()
    boxed = out.is_terminal
    grid = RichTable(box=box.ROUNDED if boxed else None, pad_edge=boxed)
    for number, column in enumerate(table.columns):
        grid.add_column(printable(column), justify="right" if number else "left")
    for row in table.rows:
        grid.add_row(*(printable(cell_text(cell)) for cell in row))
    notes = map(printable, table.notes)
    out.print("", Text(printable(table.title), style="bold"), grid, *notes, sep="\n")


def console() -> Console:
    """Open a console for tables that never folds lines unless it is a terminal."""
    console = Console(highlight=False, markup=False, emoji=False)
    if not console.is_terminal:
        console.width = _PLAIN_WIDTH
    return console
