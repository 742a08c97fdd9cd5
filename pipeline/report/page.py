"""report.html and report.txt: the same content for a browser and for a terminal."""

import io
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

from pipeline.compare.agreement import AGREEMENTS
from pipeline.report.gallery import Gallery
from pipeline.report.headline import Card, reducer_names
from pipeline.report.tables import Grid

_TEXT_WIDTH = 10_000  # a file has no edge that a line must be folded at


@dataclass(frozen=True)
class Report:
    """Everything that is shown. `figures` has the shape of comparison.json; its arms stand in that order."""

    title: str
    about: str
    cards: Sequence[Card]
    figures: Mapping[str, Any]
    tables: Sequence[Grid]
    status: Grid
    failures: Sequence[Grid]
    worst: Sequence[Grid]
    gallery: Gallery
    kinds: Mapping[str, int]  # how many requests there are of each kind that the gallery samples
    notes: Sequence[str]


def to_html(report: Report) -> str:
    """One file that needs nothing else: styles, scripts, plotting library, data and pictures are within."""
    import jinja2
    from plotly.offline import get_plotlyjs

    parts = resources.files("pipeline.report") / "template"
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    environment.filters["bound"] = lambda text: re.sub(r"(?<=\d) (?=[%×]|[a-zµ]?s\b|pp\b)", "\u00a0", text)
    template = environment.from_string((parts / "report.html").read_text("utf-8"))
    own = {
        name.replace(".", "_"): (parts / name).read_text("utf-8")
        for name in ("report.css", "plots.js", "gallery.js")
    }
    data = {
        "figures": {key: report.figures.get(key) for key in ("baseline", "arms", "pairs")},
        "reducers": reducer_names(report.figures["arms"]),
        "agreements": AGREEMENTS,
        "gallery": {"items": report.gallery.items, "pictures": report.gallery.pictures},
    }
    return template.render(report=report, data=embedded(data), plotly=get_plotlyjs(), **own)


def embedded(data: Any) -> str:
    """JSON that stays data within a script element: no `<` can end the element, and NaN is null."""
    return json.dumps(_finite(data), separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


def _finite(tree: Any) -> Any:
    if isinstance(tree, Mapping):
        return {str(name): _finite(value) for name, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [_finite(value) for value in tree]
    return None if isinstance(tree, float) and not math.isfinite(tree) else tree


def to_text(report: Report) -> str:
    """The headline, the figures and the failures, without markup."""
    from rich.console import Console

    sink = io.StringIO()
    console = Console(file=sink, width=_TEXT_WIDTH, highlight=False, markup=False, color_system=None)
    console.print(report.title, report.about, sep="\n")
    for card in report.cards:
        console.print("", f"{card.title}: {card.sentence}", sep="\n")
        _print(
            console,
            Grid(
                "", ("", "", ""), [(fact.label, fact.value, fact.detail) for fact in card.facts], prose=True
            ),
        )
    for grid in (*report.tables, report.status):
        console.print("", grid.title, sep="\n")
        _print(console, grid)
    for heading, grids in (("No answer: ", report.failures), ("Least alike: ", report.worst)):
        for grid in grids:
            console.print("", heading + grid.title, sep="\n")
            _print(console, grid)
    console.print("", *report.notes, sep="\n")
    return "\n".join(line.rstrip() for line in sink.getvalue().splitlines()) + "\n"


def _print(console: Any, grid: Grid) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, show_header=any(grid.columns))
    for place, column in enumerate(grid.columns):
        table.add_column(Text(_printable(column)), justify="right" if place and not grid.prose else "left")
    for row in grid.rows:
        table.add_row(*(Text(_printable(cell)) for cell in row))
    console.print(table)
    if grid.note:
        console.print(grid.note)


def _printable(text: str) -> str:
    """Without what could command a terminal."""
    return "".join(letter if letter.isprintable() else "�" for letter in text)
