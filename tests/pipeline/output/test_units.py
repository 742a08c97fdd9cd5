"""Test the names of units and what a listing of them implies."""

import pytest

from pipeline.output.units import Finished, Unit, UnitLimits
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
