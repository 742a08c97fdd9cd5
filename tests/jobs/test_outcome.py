"""What a run prints at its end holds names from data, which neither command the terminal nor are markup."""

from dataclasses import replace

import pytest

from jobs.common.outcome import show_outcome
from pipeline.output.failed_shards import MOST_NAMED, FailedShard
from pipeline.output.summary import Summary
from pipeline.run.config import Outcome
from pipeline.support.census import Census, PassedOver, Reason
from pipeline.support.schema import COUNTS, SECONDS

SUMMARY = Summary(
    source="file:///in",
    shards=1,
    shards_finished=1,
    units=1,
    samples=1,
    rows=1,
    status={"ok": 1},
    tokens=dict.fromkeys(COUNTS, 1),
    kept_fraction=1.0,
    mean_visual_tokens_kept=1.0,
    stage_seconds=dict.fromkeys(SECONDS, 1.0),
    active_seconds=1.0,
    samples_per_s=1.0,
    requests_per_s=1.0,
    starts=1,
    rows_by_node={"n[/b]": 1, "m": 0},
    failed_shards=0,
    failed_shards_named=[],
)


@pytest.mark.parametrize("name", ["a[/b]", "\x1b]0;PWN\x07\x1b[2Jx", "[red]y[/red]", "x\nstate     finished"])
def test_a_name_is_printed_as_it_is_in_one_line(capsys, name):
    census = Census()
    census.pass_over(PassedOver(name, Reason.OTHER_TYPE))
    summary = replace(SUMMARY, census=census.to_json())
    show_outcome(Outcome(1, summary, f"shard 0: no image column among {name}, c", "run"), f"out/{name}")
    lines = capsys.readouterr().out.splitlines()
    shown = name.replace("\x1b", "\\x1b").replace("\x07", "\\x07").replace("\n", "\\n")
    assert lines[-3:] == [
        f"passed over: {Reason.OTHER_TYPE}: 1 ({shown})",
        f"output: out/{shown} (run run)",
        f"shard 0: no image column among {shown}, c",
    ]


@pytest.mark.parametrize("count", [2, MOST_NAMED, MOST_NAMED + 1, 5000])
def test_broken_shards_that_are_not_named_are_counted(capsys, count):
    named = [FailedShard(number, "broken") for number in range(min(count, 1000))]
    summary = replace(SUMMARY, failed_shards=count, failed_shards_named=named)
    show_outcome(Outcome(1, summary, "many", "run"), "out")
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("not read whole: ")]
    more = [f"not read whole: {count - MOST_NAMED:,} more shards"] if count > MOST_NAMED else []
    assert (
        lines
        == [f"not read whole: shard {number}: broken" for number in range(min(count, MOST_NAMED))] + more
    )
