"""Run a fuzz case through the real stages within time and memory limits, and check its rows."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from hypothesis import HealthCheck, settings

from pipeline.models.config import Model
from pipeline.output.units import UnitLimits
from pipeline.sources.base import Shard, Source, files_of
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


def cases(count: int) -> Any:
    """Return Hypothesis settings: `count` cases of at most a minute, a hundred times as many if long."""
    long_form = settings.get_current_profile_name() == "long"
    return settings(
        max_examples=count * 100 if long_form else count,
        derandomize=not long_form,  # the short form always runs the same cases
        database=None,
        deadline=60_000,
        suppress_health_check=list(HealthCheck),
    )


def checkpoint(folder: Path) -> Model:
    """Write a checkpoint with only the small image processor that decoding needs."""
    place = folder / "checkpoint"
    place.mkdir(exist_ok=True)
    size = {"size": {"shortest_edge": SIDE}, "crop_size": {"height": SIDE, "width": SIDE}}
    (place / "preprocessor_config.json").write_text(
        json.dumps({"image_processor_type": "CLIPImageProcessor", **size})
    )
    (place / "config.json").write_text('{"model_type": "llava"}')
    return Model(name="fuzz", path=str(place), clip=str(place), template="<image> {question}")


def run(source: Source, folder: Path, *, room: int = 192 * MIB, task: Task = TASK) -> list[dict[str, Any]]:
    """Run a source through `read` and `decode`, check the rows and return them."""
    with at_most(room):
        shards = list(source.shards(files_of(source, STORAGE), STORAGE))
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
    """True if a text is one short line, fit for a table or a log."""
    return len(text.splitlines()) == 1 and len(text) <= 600


def _require_tiles(units: list[Any]) -> None:
    """Check that the units tile [0, end) and only the last one is an end or holds an error."""
    assert units, "a shard has at least one unit"
    stops = [unit.unit.stop for unit in units]
    assert [unit.unit.first for unit in units] == [0, *stops[:-1]]
    assert [unit.unit.end for unit in units] == [False] * (len(units) - 1) + [True]
    errors = [unit.trace["shard_error"] for unit in units]
    assert not any(errors[:-1])
    assert errors[-1] is None or one_line(errors[-1])
    assert sum(unit.trace["source_bytes"] for unit in units) == units[-1].trace["source_size"]


def _require_rerun(units: list[Any], read_again: Callable[[dict[int, int]], Iterator[Any]]) -> None:
    """Check that a rerun makes exactly the missing units, with equal content."""
    for kept in (units[::2], units[1::2]):
        if len(kept) == len(units):
            continue
        finished = {unit.unit.first: unit.unit.stop for unit in kept}
        remade = [unpack_unit(table) for table in read_again(finished)]
        missing = [unit for unit in units if unit.unit.first not in finished]
        assert [unit.unit for unit in remade] == [unit.unit for unit in missing]
        for unit, expected in zip(remade, missing, strict=True):
            assert unit.tables["samples"].equals(expected.tables["samples"])
