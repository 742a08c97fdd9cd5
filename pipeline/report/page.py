"""Renders report.html and report.txt: the same content for a browser and for a terminal."""

import io
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING, Any

from pipeline.compare.agreement import AGREEMENTS
from pipeline.compare.comparison import Comparison
from pipeline.report.gallery import Gallery
from pipeline.report.headline import Card, reducer_labels
from pipeline.report.tables import Grid
from pipeline.support.plain_text import printable

if TYPE_CHECKING:
    from rich.console import Console

_TEXT_WIDTH = 10_000  # a file has no edge that a line must be folded at
Json = Any  # any tree that json.dumps takes


@dataclass(frozen=True)
class Report:
    """Holds the content of a report; the arms appear in the order of `comparison`."""

    title: str
    about: str
    cards: Sequence[Card]
    comparison: Comparison
    tables: Sequence[Grid]
    status: Grid
    failures: Sequence[Grid]
    worst: Sequence[Grid]
    gallery: Gallery
    kinds: Mapping[str, int]  # the number of requests of each kind that the gallery samples
    notes: Sequence[str]


def to_html(report: Report) -> str:
    """Render one file that needs no other: it holds styles, scripts, plotting library, data and pictures."""
    import jinja2
    from plotly.offline import get_plotlyjs

    parts = resources.files("pipeline.report") / "template"
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    environment.filters["bound"] = lambda text: re.sub(r"(?<=\d) (?=[%×]|[a-zµ]?s\b|pp\b)", "\u00a0", text)
    template = environment.from_string((parts / "report.html").read_text("utf-8"))
    texts = {
        name.replace(".", "_"): (parts / name).read_text("utf-8")
        for name in ("report.css", "plots.js", "gallery.js")
    }
    figures = report.comparison.to_json()
    data = {
        "figures": {key: figures[key] for key in ("baseline", "arms", "pairs")},
        "reducers": reducer_labels(report.comparison.arms),
        "agreements": AGREEMENTS,
        "gallery": {"items": report.gallery.items, "pictures": report.gallery.pictures},
    }
    return template.render(report=report, data=embedded(data), plotly=get_plotlyjs(), **texts)


def embedded(data: Json) -> str:
    """Write JSON that is safe in a script element: no `<` can end the element, and NaN is null."""
    return json.dumps(_finite(data), separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


def _finite(tree: Json) -> Json:
    if isinstance(tree, Mapping):
        return {str(name): _finite(value) for name, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [_finite(value) for value in tree]
    return None if isinstance(tree, float) and not math.isfinite(tree) else tree


def to_text(report: Report) -> str:
    """Render the headline, the figures and the failures, without markup."""
    from rich.console import Console

    sink = io.StringIO()
    console = Console(
        file=sink, width=_TEXT_WIDTH, highlight=False, markup=False, emoji=False, color_system=None
    )

    def say(*lines: str) -> None:
        console.print(*map(printable, lines), sep="\n")  # names from data must not command a terminal

    say(report.title, report.about)
    for card in report.cards:
        say("", f"{card.title}: {card.sentence}")
        _print(
            console,
            Grid(
                "", ("", "", ""), [(fact.label, fact.value, fact.detail) for fact in card.facts], prose=True
            ),
        )
    for grid in (*report.tables, report.status):
        say("", grid.title)
        _print(console, grid)
    for heading, grids in (("No answer: ", report.failures), ("Least alike: ", report.worst)):
        for grid in grids:
            say("", heading + grid.title)
            _print(console, grid)
    say("", *report.notes)
    return "\n".join(line.rstrip() for line in sink.getvalue().splitlines()) + "\n"


def _print(console: "Console", grid: Grid) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, show_header=any(grid.columns))
    for place, column in enumerate(grid.columns):
        table.add_column(Text(printable(column)), justify="right" if place and not grid.prose else "left")
    for row in grid.rows:
        table.add_row(*(Text(printable(cell)) for cell in row))
    console.print(table)
    if grid.note:
        console.print(printable(grid.note))
