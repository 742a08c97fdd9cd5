"""Test a run of more shards than are made into blocks before it begins, with stubs for both models."""

from pipeline.benchmark.driver_memory import StubEncode, StubGenerate
from pipeline.output.units import Unit
from pipeline.run.cluster.start import start_ray
from pipeline.run.flow import run_flow
from pipeline.run.prepare import prepare
from pipeline.sources.webdataset import WebDataset
from tests.support.runs import make_config, unit_names
from tests.support.tars import write_tar


def test_shards_that_become_blocks_during_the_run_are_each_read_once(
    ray, tmp_path, random_checkpoint, monkeypatch
):
    monkeypatch.setattr("pipeline.run.flow._READY_BLOCKS", 4)
    monkeypatch.setattr("pipeline.run.flow._SHARDS_A_BLOCK", 3)
    for number in range(10):
        write_tar(tmp_path / "in" / f"{number}.tar", 3, seed=number, width=24)
    config = make_config(
        random_checkpoint, WebDataset(path=str(tmp_path / "in")), tmp_path / "out", unit_samples=2
    )
    expected = sorted(
        Unit(shard, first, min(first + 2, 3), first == 2) for shard in range(10) for first in (0, 2)
    )
    start_ray(config.cluster, "cpu")
    for missing in (range(10), (1, 2, 3, 7, 9)):
        for shard in missing:
            (tmp_path / "out" / "data" / Unit(shard, 2, 3, True).file_name).unlink(missing_ok=True)
        prepared = prepare(config)
        assert prepared.pending == list(missing)
        made = run_flow(config, prepared, str(missing), encode=StubEncode, generate=StubGenerate)
        units = sorted(stats.unit for stats in made)
        assert units == [
            unit for unit in expected if len(missing) == 10 or (unit.end and unit.shard in missing)
        ]
        assert unit_names(tmp_path / "out") == [unit.file_name for unit in expected]
