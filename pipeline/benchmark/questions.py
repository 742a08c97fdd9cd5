"""What encoding a request costs when an image has one question, and when it has ten: CLIP sees it once."""

import dataclasses
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

from pipeline.benchmark.efficiency import units_of
from pipeline.benchmark.inputs import seconds_of, write_tars
from pipeline.run.config import RunConfig
from pipeline.run.prepare import prepare
from pipeline.sources.task import Task
from pipeline.sources.webdataset import WebDataset
from pipeline.stages.decode import decode_unit
from pipeline.stages.encode import Encode
from pipeline.support.table import SPREAD, Table, spread_cells

_MANY = 10
_SIDE = 336


def measure(config: RunConfig, images: int, rounds: int) -> dict[str, Any]:
    """Seconds a request of the whole encode stage over one unit, with one question an image and with ten."""
    with tempfile.TemporaryDirectory(prefix="trimline-") as folder:
        units = {number: _unit(config, Path(folder) / str(number), images, number) for number in (1, _MANY)}
    shared: dict[str, Any] = {"model": config.model, "arms": config.arms, "device": config.options.device}
    geometry = units[1][0]
    encode = Encode(
        geometry=geometry, clip_text=config.clip_text, suffix=config.task.suffix, threads=None, **shared
    )
    seconds: dict[int, list[float]] = {number: [] for number in units}
    for number in range(rounds + 1):
        for questions, (_, unit) in units.items():
            took = seconds_of(lambda unit=unit: encode(unit)) / (images * questions)  # type: ignore[misc]
            if number:  # the first round warms up
                seconds[questions].append(took)
    ratios = [many / one for one, many in zip(seconds[1], seconds[_MANY], strict=True)]
    return {
        "model": config.model.name,
        "images": images,
        "questions": _MANY,
        "seconds_a_request": seconds,
        "ratio_rounds": ratios,
        "ratio": median(ratios),
    }


def table(figures: dict[str, Any]) -> Table:
    """What `measure` found."""
    seconds, many = figures["seconds_a_request"], figures["questions"]
    return Table(
        f"questions: encode seconds a request, {figures['model']}",
        ("", *SPREAD),
        [
            ("1 an image", *spread_cells(seconds[1])),
            (f"{many} an image", *spread_cells(seconds[many])),
            (f"{many} / 1", *spread_cells(figures["ratio_rounds"])),
        ],
        (f"{figures['images']} images a round",),
    )


def _unit(config: RunConfig, folder: Path, images: int, questions: int) -> tuple[Any, Any]:
    """The checkpoints' geometry, and one decoded unit with all of the images."""
    source = WebDataset(path=str(write_tars(folder / "in", images, questions, 1, _SIDE)))
    limits = dataclasses.replace(config.limits, unit_samples=images, unit_requests=images * questions)
    options = dataclasses.replace(config.options, output=str(folder / "out"), limit=None)
    task = Task(source_questions=True)
    run = dataclasses.replace(config, source=source, task=task, options=options, limits=limits)
    prepared = prepare(run)
    (unit,) = units_of(run, prepared, prepared.pending[0])
    return prepared.geometry, decode_unit(unit, model=config.model, imaging=config.imaging)
