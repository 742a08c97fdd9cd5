"""Test a unit that is answered in pieces, and which pieces are at fault: without Ray."""

from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.output.units import Unit
from pipeline.run.guard.faults import DeviceBroken, ProcessDied, StageRaised, catching
from pipeline.run.guard.isolated import control_of
from pipeline.run.guard.pieces import answer_in_pieces
from pipeline.stages.rows import UnitRow, pack_unit, unpack_unit
from pipeline.support.errors import RunError
from pipeline.support.schema import SAMPLES
from tests.pipeline.run.guard.test_raised import ERROR, Answers, requests_in, unit_of

STATUSES = st.lists(st.sampled_from(["ok", "ok", "bad_image"]), min_size=1, max_size=4)
UNITS = st.lists(STATUSES, min_size=1, max_size=12)


@given(UNITS, st.integers(1, 3), st.data())
def test_what_raises_even_alone_fails_and_the_rest_is_as_if_nothing_had_happened(statuses, arms, data):
    batch = unit_of(statuses, arms)
    keys = sorted({line["key"] for line in requests_in(batch) if line["status"] == "ok"})
    bad = frozenset(data.draw(st.sets(st.sampled_from(keys)))) if keys else frozenset()
    undisturbed = requests_in(Answers()(batch))
    answered = answer_in_pieces("generate", catching(Answers(bad)), batch)
    failed = {"status": "failed", "error": ERROR, "prediction": None}
    expected = [
        {**line, **failed} if line["status"] == "ok" and line["key"] in bad else line for line in undisturbed
    ]
    for line in (*expected, *(found := requests_in(answered.batch))):
        del line["visual"]  # the number of a row of tokens, which no later stage has
    assert found == expected
    assert answered.hopeless == (ERROR if keys and bad == set(keys) else None)


def test_a_stage_that_raises_on_rows_that_it_only_passes_on_ends_the_run():
    always = Answers(first=[ValueError("always")] * 9)
    with pytest.raises(RunError, match="stage generate raised ValueError: always, even on rows that it only"):
        answer_in_pieces("generate", catching(always), unit_of([["ok"], ["ok"]]))
    with pytest.raises(RunError, match="fails on an empty unit: 000000-00000000-00000000"):
        answer_in_pieces("generate", catching(always), unit_of([]))


def test_pieces_of_the_other_tables_keep_their_schema():
    lines = [
        {"sample": at, "sample_key": f"{at}", "image": b"x", "questions": [], "status": "ok", "error": None}
        for at in range(3)
    ]
    batch = pack_unit(UnitRow(Unit(0, 0, 3, True), {"samples": pa.Table.from_pylist(lines, SAMPLES)}))

    def decode(given: pa.Table) -> pa.Table:
        if "1" in [row["sample_key"] for row in rows_of(given) if row["status"] == "ok"]:
            raise MemoryError
        return given

    def rows_of(given: pa.Table) -> list[dict[str, Any]]:
        return unpack_unit(given).tables["samples"].to_pylist()

    done = answer_in_pieces("decode", catching(decode), batch).batch
    assert unpack_unit(done).tables["samples"].schema == SAMPLES
    assert [row["error"] for row in rows_of(done)] == [None, "stage decode raised MemoryError", None]


# --- a sample that was answered before, as the judge of a fault ---


class Machine:
    """A stage that dies of some samples, or of all once it is broken."""

    def __init__(self, *bad: int, breaks_after: int | None = None) -> None:
        self.bad, self.left = bad, breaks_after

    def __call__(self, batch: pa.Table) -> pa.Table:
        if self.left is not None:
            self.left -= 1
        tried = [line["sample"] for line in requests_in(batch) if line["status"] == "ok"]
        if tried and (set(tried) & set(self.bad) or (self.left is not None and self.left < 0)):
            raise ProcessDied("SIGKILL")
        return batch


def answer(machine: Machine, samples: int, known: pa.Table | None = None) -> list[str]:
    answered = answer_in_pieces(
        "generate", machine, unit_of([["ok"]] * samples), control=control_of(machine, lambda: known)
    )
    return [line["status"] for line in requests_in(answered.batch)]


def test_a_sample_that_kills_where_another_is_answered_fails():
    assert answer(Machine(1), 3) == ["ok", "failed", "ok"]


def test_the_first_sample_waits_for_one_that_is_answered():
    assert answer(Machine(0, 1), 3) == ["failed", "failed", "ok"]


def test_a_known_sample_of_another_unit_judges_a_unit_that_is_bad_as_a_whole():
    assert answer(Machine(0, 1), 2, known=unit_of([["ok"]], first=7)) == ["failed", "failed"]


@pytest.mark.parametrize("known", [None, unit_of([["ok"]], first=7)])
def test_where_nothing_is_answered_the_place_is_at_fault(known):
    with pytest.raises(DeviceBroken):
        answer(Machine(*range(99)), 5, known)


def test_an_exception_is_the_codes_where_nothing_is_answered_either():
    """A stage that raises on everything ends the run as one that answers nothing, and names no GPU."""

    def raising(batch: pa.Table) -> pa.Table:
        if any(line["status"] == "ok" for line in requests_in(batch)):
            raise StageRaised("KeyError: 'not in my table'")
        return batch

    batch = unit_of([["ok"]] * 2)
    answered = answer_in_pieces("generate", raising, batch, control=lambda _: False)
    assert answered.hopeless == "stage generate raised KeyError: 'not in my table'"
    assert {line["status"] for line in requests_in(answered.batch)} == {"failed"}


def test_a_place_that_breaks_within_a_unit_is_at_fault():
    """The whole unit fails for its second sample; the first is answered, and then no other."""
    with pytest.raises(DeviceBroken, match="answered before"):
        answer(Machine(1, breaks_after=2), 4)


def test_a_unit_without_an_open_row_is_passed_on():
    batch = unit_of([["bad_image"], ["bad_image"]])
    answered = answer_in_pieces("generate", Machine(0), batch, control=lambda _: False)
    assert [line["status"] for line in requests_in(answered.batch)] == ["bad_image"] * 2
