"""Build whole runs for tests with one call, and read their outputs."""

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.engines.transformers import Transformers
from pipeline.models.config import Decoding, Model
from pipeline.output.units import Unit, UnitLimits
from pipeline.run.cluster.booked import ActorResources
from pipeline.run.cluster.resources import Cluster
from pipeline.run.config import RunConfig, RunOptions
from pipeline.run.flow import ActorClass
from pipeline.run.guard.incidents import Incident
from pipeline.run.in_process import make_units
from pipeline.run.prepare import Prepared
from pipeline.sources.base import Source
from pipeline.sources.task import Task
from pipeline.stages.arms import Arm
from pipeline.stages.imaging import Imaging
from pipeline.storage.uris import Storage, list_names
from pipeline.support.schema import VOLATILE
from trim import Full, Trim

TEMPLATE = (
    "A chat between a curious human and an artificial intelligence assistant. The assistant gives helpful, "
    "detailed, and polite answers to the human's questions. USER: <image>\n{question} ASSISTANT:"
)
REDUCERS = {"full": Full(), "trim": Trim()}
# one thread each: the threads of actors that share two cores would wait for each other
CLUSTER = Cluster(
    encode=ActorResources(num_cpus=0.5, threads=1),
    generate=ActorResources(num_cpus=0.6, threads=1),
)


def make_config(
    checkpoint: Path,
    source: Source,
    output: str | Path,
    *,
    reducer: str = "full",
    storage: Storage | None = None,
    max_new_tokens: int = 4,
    token_budget: int = 16384,
    extend: bool = False,
    **limits: int,
) -> RunConfig:
    """Configure a greedy float32 run over the source's own questions with the random checkpoint."""
    model = Model(
        name="random", path=str(checkpoint / "llava"), clip=str(checkpoint / "clip"), template=TEMPLATE
    )
    unit_limits = UnitLimits(**limits)
    task = Task(source_questions=True)
    parts = {"source": source, "task": task}
    settings = {
        name: {"_target_": f"{type(part).__module__}.{type(part).__qualname__}", **vars(part)}
        for name, part in parts.items()
    }
    return RunConfig(
        options=RunOptions(output=str(output), extend=extend, device="cpu"),
        limits=unit_limits,
        source=source,
        task=task,
        model=model,
        arms=(Arm(reducer, REDUCERS[reducer], {"name": reducer}),),
        engine=Transformers(token_budget=token_budget),
        decoding=Decoding(max_new_tokens=max_new_tokens),
        imaging=Imaging(),
        storage=storage or Storage(),
        cluster=CLUSTER,
        settings={**settings, "max_questions": unit_limits.max_questions},
    )


@contextmanager
def without_ray(incidents: Sequence[Incident] = (), **stages: ActorClass) -> Iterator[None]:
    """Call the stages of the block's runs in this process, which saves the start of Ray's workers.

    Args:
        incidents: what the runs say happened to GPUs.
        stages: other classes for `encode` and `generate`.
    """

    def run_units(config: RunConfig, prepared: Prepared) -> list[Incident]:
        make_units(config, prepared, f"{time.time():.3f}", **stages)
        return list(incidents)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipeline.run.annotate._run_units", run_units)
        yield


def unit_names(output: str | Path, storage: Storage | None = None) -> list[str]:
    """List the names of an output's unit files, sorted; fails if other files lie beside them."""
    fs, folder = (storage or Storage()).open(str(output))
    names = sorted(list_names(fs, f"{folder}/data"))
    assert all(Unit.of_file(name) for name in names), names
    return names


def read_units(output: str | Path, storage: Storage | None = None) -> dict[str, tuple[pa.Table, dict]]:
    """Read each unit file's rows and footer, by file name."""
    fs, folder = (storage or Storage()).open(str(output))
    units = {}
    for name in unit_names(output, storage):
        with fs.open(f"{folder}/data/{name}", "rb") as file:
            table = pq.read_table(file, page_checksum_verification=True)
        units[name] = (table, json.loads(table.schema.metadata[b"trimline"]))
    return units


def rows(output: str | Path, storage: Storage | None = None) -> list[dict[str, Any]]:
    """Read all rows of an output in the order of its files."""
    return [row for table, _ in read_units(output, storage).values() for row in table.to_pylist()]


def lasting(rows_read: list[dict[str, Any]], *also: str) -> list[dict[str, Any]]:
    """Drop the columns that differ between equal runs, and the columns `also`."""
    return [
        {name: value for name, value in row.items() if name not in (*VOLATILE, *also)} for row in rows_read
    ]
