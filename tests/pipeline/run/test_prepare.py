"""What a run still has to make, by what its arms' outputs hold."""

from types import SimpleNamespace

from pipeline.output.units import Finished, Unit
from pipeline.run.prepare import ArmState, Prepared


def arm(*ranges: tuple[int, int]) -> ArmState:
    names = [Unit(3, first, stop, end=False).file_name for first, stop in ranges]
    return ArmState(SimpleNamespace(), "file:///out", SimpleNamespace(), Finished(names))


def test_a_unit_that_some_arms_lack_is_made_for_them_alone():
    """The example in the docstring of `missing`."""
    states = (arm((0, 64), (64, 128)), arm((0, 64), (128, 192)))
    missing = Prepared(SimpleNamespace(), SimpleNamespace(), states).missing(3)
    assert missing.number == 3
    assert missing.finished == {0: 64}
    assert missing.lacking_arms == {64: [1], 128: [0]}


def test_a_shard_that_no_arm_has_begun_lacks_everything():
    missing = Prepared(SimpleNamespace(), SimpleNamespace(), (arm(), arm((0, 64)))).missing(4)
    assert (missing.finished, missing.lacking_arms) == ({}, {})
