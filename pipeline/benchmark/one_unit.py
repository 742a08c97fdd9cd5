"""Makes one decoded unit of small pictures, as the encode stage takes it."""

import dataclasses
from pathlib import Path

import pyarrow as pa

from pipeline.benchmark.efficiency import units_of
from pipeline.benchmark.inputs import write_tars
from pipeline.models.checkpoints.fit import Geometry
from pipeline.run.config import RunConfig
from pipeline.run.prepare import prepare
from pipeline.sources.task import Task
from pipeline.sources.webdataset import WebDataset
from pipeline.stages.decode import decode_unit

_SIDE = 336


def decoded_unit(config: RunConfig, folder: Path, images: int, questions: int) -> tuple[Geometry, pa.Table]:
    """Read the checkpoints' geometry, and decode one unit of `images` pictures with `questions` each."""
    source = WebDataset(path=str(write_tars(folder / "in", images, questions, 1, _SIDE)))
    limits = dataclasses.replace(config.limits, unit_samples=images, unit_requests=images * questions)
    options = dataclasses.replace(config.options, output=str(folder / "out"), limit=None)
    task = Task(source_questions=True)
    run = dataclasses.replace(config, source=source, task=task, options=options, limits=limits)
    run = dataclasses.replace(run, arms=config.arms[:1])  # the unit is the same for all, and so is its folder
    prepared = prepare(run)
    (unit,) = units_of(run, prepared, prepared.pending[0])
    return prepared.geometry, decode_unit(unit, model=config.model, imaging=config.imaging)
