"""Test the names of units and what a listing of them implies."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.output.units import Finished, Unit, UnitLimits, units_up_to
from pipeline.support.errors import ConfigError


def test_a_name_is_read_back():
    for unit in (Unit(0, 0, 64, False), Unit(12, 64, 70, True), Unit(1_000_000, 10**8, 10**8 + 1, True)):
        assert Unit.of_file(unit.file_name) == unit


@pytest.mark.parametrize(
    "name",
    ["", "x.parquet", ".000000-00000000-00000064.parquet.1.tmp", "000000-00000000-00000064.parquet.tmp"],
)
def test_other_names_are_not_units(name):
    assert Unit.of_file(name) is None


def listing(*ranges):
    return Finished(Unit(0, start, stop, end).file_name for start, stop, end in ranges)


def test_a_shard_is_finished_when_units_cover_it_up_to_its_marked_end():
    assert listing((0, 5, False), (5, 9, True)).has_shard(0)
    assert listing((0, 0, True)).has_shard(0)
    assert not listing().has_shard(0)
    assert not listing((0, 5, False), (5, 9, False)).has_shard(0)
    assert not listing((0, 5, False), (9, 12, True)).has_shard(0), "the middle is missing"
    assert not listing((5, 9, True)).has_shard(0), "the beginning is missing"
    assert not listing((0, 5, False)).has_shard(1)


def test_two_files_for_one_range_are_refused():
    with pytest.raises(ConfigError, match="two files"):
        listing((0, 5, False), (0, 6, False))


@pytest.mark.parametrize("field", ["unit_samples", "unit_requests", "unit_bytes", "max_questions"])
def test_limits_name_the_key(field):
    with pytest.raises(ConfigError, match=field):
        UnitLimits(**{field: 0})


UNITS = st.sets(
    st.builds(Unit, st.integers(0, 3), st.integers(0, 4), st.integers(0, 4), st.booleans()), max_size=12
)


@given(UNITS)
def test_a_listing_is_read_as_its_units_one_by_one(units):
    names = [unit.file_name for unit in units]
    if len({(unit.shard, unit.first) for unit in units}) < len(units):
        with pytest.raises(ConfigError, match="two files for one range"):
            Finished(names)
        return
    finished = Finished(["other", *names, ".tmp"], map(float, range(len(names) + 2)))
    assert list(finished) == sorted(units) and finished.count == len(units)
    assert [names[int(time) - 1] for time in finished.times] == [unit.file_name for unit in finished]
    for shard in range(5):
        of_shard = sorted(unit for unit in units if unit.shard == shard)
        assert finished.units(shard) == of_shard
        assert finished.ranges(shard) == {unit.first: unit.stop for unit in of_shard}
        assert finished.has_shard(shard) == covers(of_shard)
        stops = [unit.stop for unit in of_shard]
        is_exact = bool(of_shard) and units_up_to(shard, stops) == of_shard
        assert finished.stops_of_whole(shard) == (stops if is_exact else None)


def covers(units):
    """Whether units in order lead from 0 to an end without a gap."""
    position = 0
    for unit in units:
        if unit.first != position:
            return False
        if unit.end:
            return True
        position = unit.stop
    return False
