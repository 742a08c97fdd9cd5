"""Renders the page of a check, in the report's style: one file that needs no other."""

from collections.abc import Sequence
from importlib import resources

from pipeline.benchmark.gauges import Machine
from pipeline.benchmark.gpu_check.results import FAILURES, Result
from pipeline.support.words import cell_text


def check_page(machine: Machine, geometry: str, results: Sequence[Result]) -> str:
    """Render what was claimed and measured, part by part."""
    import jinja2

    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    environment.filters["cell"] = cell_text
    template = resources.files("pipeline.benchmark") / "template" / "gpu_check.html"
    style = resources.files("pipeline.report") / "template" / "report.css"
    return environment.from_string(template.read_text("utf-8")).render(
        machine=machine,
        geometry=geometry,
        results=results,
        failures=FAILURES,
        style=style.read_text("utf-8"),
    )
