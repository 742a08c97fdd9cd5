"""How a case is run: through the real stages, with an eye on time and memory; what holds of its rows."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from hypothesis import HealthCheck, settings

from pipeline.models.config import Model
from pipeline.output.units import UnitLimits
from pipeline.sources.base import Shard, Source
from pipeline.sources.task import Task
from pipeline.stages.decode import decode_unit
from pipeline.stages.imaging import Imaging
from pipeline.stages.read import read_shard
from pipeline.stages.rows import unpack_unit
from pipeline.storage.uris import Storage
from pipeline.support.schema import STATUSES
from tests.support.measured import MIB, at_most

STORAGE = Storage()
TASK = Task(source_questions=True)
LIMITS = UnitLimits(unit_samples=3, unit_requests=16, unit_bytes=1 << 20, max_questions=8)
IMAGING = Imaging(max_pixels=1_000_000)
SIDE = 28


def cases(few: int) -> Any:
    """Settings of a fuzz test: `few` cases, in the long form a hundred times as many; a minute each."""
    many = settings.get_current_profile_name() == "long"
    return settings(
        max_examples=few * 100 if many else few,
        derandomize=not many,  # the short form is a test like any other: it fails today if it fails tomorrow
        database=None,
        deadline=60_000,
        suppress_health_check=list(HealthCheck),
    )


def checkpoint(folder: Path) -> Model:
    """A model whose folder holds what decoding reads of a checkpoint: a small image processor."""
    where = folder / "checkpoint"
    where.mkdir(exist_ok=True)
    size = {"size": {"shortest_edge": SIDE}, "crop_size": {"height": SIDE, "width": SIDE}}
    (where / "preprocessor_config.json").write_text(
        json.dumps({"image_processor_type": "CLIPImageProcessor", **size})
    )
    (where / "config.json").write_text('{"model_type": "llava"}')
    return Model(name="fuzz", path=str(where), clip=str(where), template="<image> {question}")


def run(source: Source, folder: Path, *, room: int = 192 * MIB, task: Task = TASK) -> list[dict[str, Any]]:
    """All rows of a source, after `read` and `decode`, checked."""
    with at_most(room):
        shards = list(source.shards(source.entries(STORAGE), STORAGE))
        return [row for shard in shards for row in _run_shard(source, shard, checkpoint(folder), task)]


def _run_shard(source: Source, shard: Shard, model: Model, task: Task) -> list[dict[str, Any]]:
    options = SimpleNamespace(storage=STORAGE, task=task, limits=LIMITS)
    units, rows = [], []
    for table in read_shard(source, shard, finished={}, **vars(options)):
        read = unpack_unit(table)
        decoded = unpack_unit(decode_unit(table, model=model, imaging=IMAGING))
        units.append(read)
        assert read.unit == decoded.unit
        rows += _checked(decoded, decoded.tables["images"].to_pylist())
    _require_tiles(units)
    _require_rerun(units, lambda finished: read_shard(source, shard, finished=finished, **vars(options)))
    return rows


def _checked(unit: Any, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    assert [row["sample"] for row in rows] == list(range(unit.unit.first, unit.unit.stop))
    for row in rows:
        assert row["status"] in STATUSES and row["status"] != "failed"
        assert (row["error"] is None) == (row["status"] == "ok")
        assert row["error"] is None or (row["error"].strip() and one_line(row["error"]))
        assert (row["pixels"] is not None) == (row["status"] == "ok")
        assert row["pixels"] is None or len(row["pixels"]) == SIDE * SIDE * 3
        assert len(row["questions"]) <= LIMITS.max_questions
        assert row["questions"] or row["status"] != "ok"
    return rows


def one_line(text: str) -> bool:
    """Whether a text can stand in a table or a log as it is."""
    return len(text.splitlines()) == 1 and len(text) <= 600


def _require_tiles(units: list[Any]) -> None:
    """The units tile [0, end), and the last one alone is the end; only it may hold a shard's error."""
    assert units, "a shard is never without a file"
    stops = [unit.unit.stop for unit in units]
    assert [unit.unit.first for unit in units] == [0, *stops[:-1]]
    assert [unit.unit.end for unit in units] == [False] * (len(units) - 1) + [True]
    errors = [unit.trace["shard_error"] for unit in units]
    assert not any(errors[:-1])
    assert errors[-1] is None or one_line(errors[-1])
    assert sum(unit.trace["source_bytes"] for unit in units) == units[-1].trace["source_size"]


def _require_rerun(units: list[Any], again: Callable[[dict[int, int]], Iterator[Any]]) -> None:
    """A rerun makes exactly what is missing, and the same."""
    for kept in (units[::2], units[1::2]):
        if len(kept) == len(units):
            continue
        finished = {unit.unit.first: unit.unit.stop for unit in kept}
        made = [unpack_unit(table) for table in again(finished)]
        wanted = [unit for unit in units if unit.unit.first not in finished]
        assert [unit.unit for unit in made] == [unit.unit for unit in wanted]
        for one, other in zip(made, wanted, strict=True):
            assert one.tables["samples"].equals(other.tables["samples"])
