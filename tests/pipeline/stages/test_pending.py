"""Test that what a shard lacks travels with its row, and that the read stage does not grow with the plan."""

import dataclasses
import inspect
import pickle
from pathlib import Path

import pytest

from pipeline.output.plan_parts import LinePlace
from pipeline.output.units import Finished, Unit, UnitLimits
from pipeline.run.flow import read_stage
from pipeline.stages.pending import PENDING, PendingShard, parse_pending, pending_rows
from pipeline.stages.read import ReadPending
from pipeline.stages.rows import unpack_unit
from pipeline.storage.uris import Storage
from tests.pipeline.output.test_plan_parts import tars
from tests.support.quick import TASK, quick_prepare
from tests.support.runs import make_config
from tests.support.tars import write_tar

HERE = Storage()


@pytest.mark.parametrize(
    ("finished", "lacking_arms"),
    [({}, {}), ({0: 64, 128: 130}, {}), ({}, {64: [0, 2], 128: [1]}), ({0: 64}, {64: [1]})],
)
def test_a_row_holds_what_a_shard_lacks(finished, lacking_arms):
    pending = (
        PendingShard(1_234_567, finished, lacking_arms),
        LinePlace("001000-0123456789abcdef.parquet", 12, 34),
    )
    row = pending_rows([pending])
    assert row.num_rows == 1 and row.schema == PENDING
    assert parse_pending(row) == pending
    other = PendingShard(0, {0: 1}, {}), pending[1]
    assert parse_pending(pending_rows([other, pending]).slice(1, 1)) == pending


def with_units(prepared, names):
    states = [dataclasses.replace(state, finished=Finished(names)) for state in prepared.states]
    return dataclasses.replace(prepared, states=tuple(states))


def test_the_read_stage_is_as_large_for_a_long_plan_and_many_finished_units(tmp_path):
    def size_of(count: int, folder: Path) -> int:
        source = tars(folder / "in", count)
        prepared = quick_prepare(source, folder / "out", "full", "trim")
        units = [Unit(1, 64 * number, 64 * (number + 1), False).file_name for number in range(count)]
        prepared = with_units(prepared, units)
        assert len(prepared.pending) == count
        config = make_config(tmp_path, source, folder / "out")
        held = inspect.getclosurevars(read_stage(config, prepared, "1", None)).nonlocals
        return len(pickle.dumps(held))  # what of the function travels to the workers

    for name in ("few", "big"):
        (tmp_path / name).mkdir()
    assert size_of(10, tmp_path / "few") == size_of(10_000, tmp_path / "big") < 10_000


def test_a_worker_reads_the_missing_units_of_one_shard_from_one_part_of_the_plan(tmp_path):
    source = tars(tmp_path / "in", 1_500)
    write_tar(tmp_path / "in" / "001200.tar", 5)
    prepared = quick_prepare(source, tmp_path / "out")
    prepared = with_units(prepared, [Unit(1_200, 2, 4, False).file_name])
    stage = ReadPending(
        output=prepared.plan.folder,
        attempt="1",
        source=source,
        storage=HERE,
        reading=HERE,
        task=TASK,
        limits=UnitLimits(unit_samples=2),
    )
    rows = list(prepared.pending_tables(1))
    (tmp_path / "out" / "plan" / "000000.parquet").unlink()
    units = [unpack_unit(row).unit for row in stage(rows[1_200])]
    assert units == [Unit(1_200, 0, 2, False), Unit(1_200, 4, 5, True)]
    (broken,) = stage.broken_off(rows[1_200], {0: 2}, "it broke")
    assert unpack_unit(broken).unit == Unit(1_200, 4, 4, True)
