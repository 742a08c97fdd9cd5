"""The Grafana dashboard shows exactly the exported metrics."""

import json
import re
from pathlib import Path

from pipeline.run.prometheus import DECLARED

DASHBOARD = json.loads((Path(__file__).parents[2] / "docker" / "grafana" / "trimline.json").read_text())
NAME = re.compile(r"\bray_trimline_\w+")


def expressions() -> list[str]:
    return [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]


def test_every_metric_is_shown_and_every_metric_shown_exists():
    shown = {name for text in expressions() for name in NAME.findall(text)}
    shown |= set(NAME.findall(json.dumps(DASHBOARD["templating"])))
    exported = {name for metric in DECLARED for name in metric.exported}
    assert shown == exported


def test_every_panel_filters_by_run_id():
    for text in expressions():
        assert len(re.findall(r'\{run_id=~"\$run_id"[,}]', text)) == len(NAME.findall(text)), text


def test_panels_group_only_by_tags_of_their_metrics():
    tags = {name: {"run_id", "le", *metric.tags} for metric in DECLARED for name in metric.exported}
    for text in expressions():
        grouped = {tag.strip() for group in re.findall(r"by \(([^)]*)\)", text) for tag in group.split(",")}
        assert all(grouped <= tags[name] for name in NAME.findall(text)), text


def test_panels_do_not_overlap():
    cells = [
        (x, y)
        for panel in DASHBOARD["panels"]
        for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    ]
    assert len(cells) == len(set(cells)) and max(x for x, _ in cells) == 23
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
