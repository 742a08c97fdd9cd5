"""Test tasks that take several units: how many, and one that dies between two, with stubs for both models."""

import os
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.benchmark.driver_memory import StubEncode, StubGenerate
from pipeline.run.bundles import one_by_one, units_a_task
from pipeline.run.cluster.booked import ActorResources
from pipeline.run.cluster.start import start_ray
from pipeline.run.flow import run_flow
from pipeline.run.prepare import prepare
from pipeline.sources.webdataset import WebDataset
from pipeline.storage.uris import Storage
from tests.support.runs import make_config, unit_names
from tests.support.tars import write_tar

SHARDS, MODELS = 13, 4


@pytest.mark.parametrize(
    ("models", "decoded", "written"), [(1, 1, 1), (3, 1, 1), (4, 1, 2), (8, 2, 4), (40, 2, 8), (512, 2, 8)]
)
def test_tasks_take_more_units_the_more_models_there_are(models, decoded, written):
    assert (units_a_task("decode", models), units_a_task("write", models)) == (decoded, written)
    assert units_a_task("read", models) == 1


@given(st.integers(1, 10_000))
def test_a_crash_costs_at_most_half_as_many_written_units_as_are_in_work(models):
    assert units_a_task("write", models) - 1 < max(1, models / 2)


def test_results_come_one_at_a_time_and_rows_are_not_copied():
    rows, seen = pa.table({"image": [b"one", b"two"]}), []

    def task(row: pa.Table) -> pa.Table:
        seen.append(row["image"].chunk(0).buffers()[2].address)
        return row

    results = one_by_one(task)(rows)
    assert next(results)["image"].to_pylist() == [b"one"] and len(seen) == 1
    assert [row["image"].to_pylist() for row in results] == [[b"two"]]
    assert seen == [rows["image"].chunk(0).buffers()[2].address] * 2


@dataclass(frozen=True)
class DiesOnce(Storage):
    """Ends a worker's process at the second file that is written to an output."""

    output: str = ""
    calls: str = ""

    def open(self, uri: str) -> Any:
        if uri == self.output and sys.argv[0].endswith("default_worker.py"):
            number = len(list(Path(self.calls).iterdir()))
            (Path(self.calls) / f"{number}-{os.getpid()}").touch()
            if number == 1:
                os._exit(1)
        return super().open(uri)


def test_a_task_that_dies_between_two_units_counts_none_twice(ray, tmp_path, random_checkpoint):
    for number in range(SHARDS):
        write_tar(tmp_path / "in" / f"{number}.tar", 2, seed=number, width=24)
    (tmp_path / "calls").mkdir()
    config = make_config(
        random_checkpoint, WebDataset(path=str(tmp_path / "in")), tmp_path / "out", unit_samples=1
    )
    cluster = replace(
        config.cluster,
        encode=ActorResources(num_cpus=0.05),
        generate=ActorResources(num_cpus=0.06, num_actors=MODELS),
    )
    prepared = prepare(replace(config, cluster=cluster))
    folder = prepared.states[0].folder
    storage = DiesOnce(**vars(config.storage), output=folder, calls=str(tmp_path / "calls"))
    run = replace(config, cluster=cluster, storage=storage)
    start_ray(cluster, "cpu")
    from ray import cloudpickle

    cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers cannot import this file
    made = [stats.unit for stats in run_flow(run, prepared, "a", encode=StubEncode, generate=StubGenerate)]
    assert len(made) == len(set(made)) == 2 * SHARDS
    assert unit_names(tmp_path / "out") == sorted(unit.file_name for unit in made)
    calls = [call.name.split("-")[1] for call in (tmp_path / "calls").iterdir()]
    assert len(calls) > 2 * SHARDS, "the unit before the death was written again"
    assert max(map(calls.count, calls)) > 1, "a worker writes several"
