"""A real run with `metrics_port` and `log=json`: the exported metrics and the log lines."""

import json
import re

from pipeline.run.prometheus import DECLARED, STAGES


def series(text: str) -> dict[tuple, float]:
    """Parse our metrics from an exposition: (name, our tags, sorted) -> value."""
    values = {}
    for name, tags, value in re.findall(r"^(ray_trimline_\w+)\{(.*)\} (\S+)$", text, re.MULTILINE):
        pairs = dict(re.findall(r'(\w+)="([^"]*)"', tags))
        our_tags = {tag: pairs[tag] for tag in ("arm", "stage", "status", "le") if tag in pairs}
        assert len(pairs["run_id"]) == 16
        values[name, *sorted(our_tags.items())] = float(value)
    return values


def test_exported_metrics_equal_the_summary(rich):
    summary, metrics = rich.summary, series(rich.ended.stdout)
    assert {name for name, *_ in metrics} == {name for metric in DECLARED for name in metric.exported}
    arm = ("arm", "middle")
    for status, count in summary["status"].items():
        assert metrics["ray_trimline_requests_total", arm, ("status", status)] == count
    for name in ("visual_tokens_full", "visual_tokens_kept", "generated_tokens"):
        assert metrics[f"ray_trimline_{name}_total", arm] == summary["tokens"][name] > 0
    assert metrics["ray_trimline_units_total",] == summary["units"] == 3
    assert metrics["ray_trimline_samples_total",] == summary["samples"] == 5
    planned = metrics["ray_trimline_source_bytes_planned",]
    assert metrics["ray_trimline_source_bytes_total",] == planned > 0
    for stage in STAGES:
        assert metrics["ray_trimline_stage_seconds_count", ("stage", stage)] == 3
        assert metrics["ray_trimline_stage_seconds_bucket", ("le", "+Inf"), ("stage", stage)] == 3
        assert metrics["ray_trimline_units_in_stage", ("stage", stage)] == 0, "no unit is in work any more"
    assert metrics["ray_trimline_stage_seconds_sum", ("stage", "generate")] > 0


def test_every_line_of_stderr_is_an_event_of_the_run(rich):
    ended, summary = rich.ended, rich.summary
    events = [json.loads(line) for line in ended.stderr.splitlines()]
    assert {"start", "progress", "end"} <= {line["event"] for line in events}
    assert (
        len({line["run_id"] for line in events}) == 1 and events[0]["run_id"] and events[0]["output"] == "out"
    )
    assert events[-1]["event"] == "end" and (events[-1]["arm"], events[-1]["exit_status"]) == ("middle", 0)
    assert {name: events[-1][name] for name in ("rows", "status", "tokens")} == {
        name: summary[name] for name in ("rows", "status", "tokens")
    }
    assert ended.stdout.startswith("ray_trimline_"), "stdout does not hold the table, too"
