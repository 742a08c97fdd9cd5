"""A real run with `metrics_port` and `log=json`: what Prometheus would read, and what stderr holds."""

import json
import re

from pipeline.run.prometheus import DECLARED, STAGES


def series(text: str) -> dict[tuple, float]:
    """Our lines of the exposition: (name, our tags, sorted) -> value."""
    found = {}
    for name, tags, value in re.findall(r"^(ray_trimline_\w+)\{(.*)\} (\S+)$", text, re.MULTILINE):
        pairs = dict(re.findall(r'(\w+)="([^"]*)"', tags))
        own = {tag: pairs[tag] for tag in ("arm", "stage", "status", "le") if tag in pairs}
        assert len(pairs["run_id"]) == 16
        found[name, *sorted(own.items())] = float(value)
    return found


def test_prometheus_reads_what_the_summary_says(rich):
    summary, found = rich.summary, series(rich.ended.stdout)
    assert {name for name, *_ in found} == {name for metric in DECLARED for name in metric.exported}
    arm = ("arm", "middle")
    for status, count in summary["status"].items():
        assert found["ray_trimline_requests_total", arm, ("status", status)] == count
    for name in ("visual_tokens_full", "visual_tokens_kept", "generated_tokens"):
        assert found[f"ray_trimline_{name}_total", arm] == summary["tokens"][name] > 0
    assert found["ray_trimline_units_total",] == summary["units"] == 3
    assert found["ray_trimline_samples_total",] == summary["samples"] == 5
    planned = found["ray_trimline_source_bytes_planned",]
    assert found["ray_trimline_source_bytes_total",] == planned > 0
    for stage in STAGES:
        assert found["ray_trimline_stage_seconds_count", ("stage", stage)] == 3
        assert found["ray_trimline_stage_seconds_bucket", ("le", "+Inf"), ("stage", stage)] == 3
        assert found["ray_trimline_units_in_stage", ("stage", stage)] == 0, "nothing is under way any more"
    assert found["ray_trimline_stage_seconds_sum", ("stage", "generate")] > 0


def test_every_line_of_stderr_is_an_event_of_the_run(rich):
    ended, summary = rich.ended, rich.summary
    told = [json.loads(line) for line in ended.stderr.splitlines()]
    assert {"start", "progress", "end"} <= {line["event"] for line in told}
    assert len({line["run_id"] for line in told}) == 1 and told[0]["run_id"] and told[0]["output"] == "out"
    assert told[-1]["event"] == "end" and (told[-1]["arm"], told[-1]["exit_status"]) == ("middle", 0)
    assert {name: told[-1][name] for name in ("rows", "status", "tokens")} == {
        name: summary[name] for name in ("rows", "status", "tokens")
    }
    assert ended.stdout.startswith("ray_trimline_"), "stdout is not told the table, too"
