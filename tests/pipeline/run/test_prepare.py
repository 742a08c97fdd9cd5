"""Test which units a run still has to make, from the files in its arms' outputs."""

from types import SimpleNamespace

from pipeline.output.units import Finished, Unit
from pipeline.run.prepare import ArmState, Prepared


def arm(*ranges: tuple[int, int]) -> ArmState:
    names = [Unit(3, start, stop, end=False).file_name for start, stop in ranges]
    return ArmState(SimpleNamespace(), "file:///out", SimpleNamespace(), Finished(names))


def test_a_unit_missing_in_some_arms_is_made_for_those_only():
    """The example in the docstring of `missing`."""
    states = (arm((0, 64), (64, 128)), arm((0, 64), (128, 192)))
    missing = Prepared(SimpleNamespace(), SimpleNamespace(), states).missing(3)
    assert missing.number == 3
    assert missing.finished == {0: 64}
    assert missing.lacking_arms == {64: [1], 128: [0]}


def test_a_shard_without_units_is_missing_as_a_whole():
    missing = Prepared(SimpleNamespace(), SimpleNamespace(), (arm(), arm((0, 64)))).missing(4)
    assert (missing.finished, missing.lacking_arms) == ({}, {})
