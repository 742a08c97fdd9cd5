"""Test that a run is ended as soon as too many rows have failed for certain, and never before."""

from contextlib import suppress
from functools import cache
from types import SimpleNamespace

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.output.footers import Totals
from pipeline.output.units import Unit
from pipeline.run.early_stop import EarlyStop
from pipeline.stages.write import UnitStats
from pipeline.support.errors import RunError
from pipeline.support.schema import COUNTS, SECONDS
from tests.support.commands import compose

NOTHING = {"tokens": dict.fromkeys(COUNTS, 0), "seconds": dict.fromkeys(SECONDS, 0.0)}


@cache
def configured(*overrides):
    return compose("source.path=in", "output=out", "max_failed_fraction=0.1", *overrides)


def early_stop(samples, *overrides):
    return EarlyStop(
        configured(*overrides), SimpleNamespace(table=pa.table({"samples": pa.array(samples, pa.int64())}))
    )


def unit(first, rows_of_samples, failed):
    """A unit of one arm: the number of rows of each of its samples, and how many of all failed."""
    stop, rows = first + len(rows_of_samples), sum(rows_of_samples)
    status = {"ok": rows - failed, "failed": failed}
    totals = Totals(rows=rows, samples=stop - first, status=status, **NOTHING)
    return UnitStats(
        unit=Unit(0, first, stop, end=False), source_bytes=0, arms=[0], totals=[totals], stage_s={}
    )


def test_questions_of_the_source_count_as_soon_as_they_are_known():
    """A source of one question a sample ends early, although a sample may have 128."""
    stop = early_stop([100], "source=jsonl", "task=vqa")
    written = 0
    with pytest.raises(RunError, match=r"stopped early: \d+ of at most \d+ rows have failed"):
        for written in range(100):
            stop.add(unit(written, [1], 1))
    assert written < 95


def test_an_unknown_number_of_samples_ends_nothing():
    stop = early_stop([None, 1])
    for first in range(50):
        stop.add(unit(first, [1], 1))


@given(
    units=st.lists(st.tuples(st.lists(st.integers(1, 64), max_size=5), st.floats(0, 1)), max_size=12),
    arms_made=st.data(),
)
def test_a_run_that_would_end_well_is_never_ended(units, arms_made):
    """Whatever the order of units, and whichever of them were there before."""
    total = sum(len(rows) for rows, _ in units)
    rows = sum(sum(rows) for rows, _ in units)
    made = [
        unit(0, rows_of, int(part * sum(rows_of)))
        for rows_of, part in units
        if arms_made.draw(st.booleans(), label="made in this start")
    ]
    failed = sum(stats.totals[0].status["failed"] for stats in made)
    stop, was_ended = early_stop([total], "source=jsonl", "task=vqa"), True
    with suppress(RunError):
        for stats in made:
            stop.add(stats)
        was_ended = False
    assert not was_ended or failed > 0.1 * rows
