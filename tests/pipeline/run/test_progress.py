"""Test the progress line, computed from the statistics of units."""

import re

from pipeline.output.footers import Totals
from pipeline.output.units import Unit
from pipeline.run.progress import Progress
from pipeline.stages.write import UnitStats


def stats(first, stop, source_bytes, tokens_kept, failed=0):
    rows = stop - first
    status = {"ok": rows - failed, "bad_image": failed}
    tokens = {"visual_tokens_kept": tokens_kept}
    totals = Totals(rows=rows, samples=rows, status=status, tokens=tokens, seconds={})
    unit = Unit(0, first, stop, False)
    return UnitStats(unit=unit, source_bytes=source_bytes, arms=[0], totals=[totals], stage_s={})


def test_before_the_first_unit_the_line_says_starting():
    assert Progress(total_bytes=100, known_samples=None).line().startswith("starting")


def test_the_line_counts_samples_tokens_and_failures():
    progress = Progress(total_bytes=400, known_samples=8)
    progress.add(stats(0, 2, 100, tokens_kept=200))
    assert "2/8 samples" in progress.line()
    assert "/s" not in progress.line(), "one unit measures the start-up, not the rate"
    progress.add(stats(2, 4, 100, tokens_kept=100, failed=1))
    assert "/s" not in progress.line(), "two units within one second give no rate"
    progress.steady_since -= 30
    line = progress.line()
    assert "4/8 samples" in line
    assert "100 visual tokens kept" in line
    assert "1 failed rows" in line
    assert re.search(r"\d/s \| ETA \d+:\d\d:\d\d", line)


def test_the_remaining_time_follows_the_bytes():
    progress = Progress(total_bytes=1000, known_samples=None)
    progress.add(stats(0, 1, 100, tokens_kept=1))
    progress.add(stats(1, 2, 300, tokens_kept=1))
    assert progress._eta(elapsed=30.0) == "0:01:00"


def test_without_a_terminal_the_last_line_has_all_counts(capsys):
    with Progress(total_bytes=1000, known_samples=3) as progress:
        progress.add(stats(0, 2, 100, tokens_kept=1))
        progress.add(stats(2, 3, 100, tokens_kept=1))
    assert capsys.readouterr().err.splitlines()[-1].startswith("3/3 samples")
    with Progress(total_bytes=1000, known_samples=3):
        pass
    assert capsys.readouterr().err == ""
