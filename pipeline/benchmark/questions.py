"""Measures the encode time of a request with one and with ten questions an image; CLIP runs once an image."""

import tempfile
from functools import partial
from pathlib import Path
from statistics import median
from typing import TypedDict

from pipeline.benchmark.devices import timed
from pipeline.benchmark.one_unit import decoded_unit
from pipeline.benchmark.options import QuestionsOptions
from pipeline.models.devices import torch_device
from pipeline.run.config import RunConfig
from pipeline.stages.encode import Encode
from pipeline.support.table import SPREAD, Table, spread_cells

_MANY = 10


class QuestionsFigures(TypedDict):
    """Holds the seconds a request by the number of questions an image, round by round."""

    model: str
    images: int
    questions: int
    seconds_a_request: dict[int, list[float]]
    ratio_rounds: list[float]
    ratio: float


def measure(config: RunConfig, options: QuestionsOptions) -> QuestionsFigures:
    """Time the whole encode stage over one unit, with one question an image and with ten."""
    images, device = options.question_images, torch_device(config.options.device)
    with tempfile.TemporaryDirectory(prefix="trimline-") as folder:
        units = {
            number: decoded_unit(config, Path(folder) / str(number), images, number) for number in (1, _MANY)
        }
    encode = Encode(
        geometry=units[1][0],
        model=config.model,
        arms=config.arms,
        clip_text=config.clip_text,
        suffix=config.task.suffix,
        device=device.type,
        threads=None,
    )
    seconds: dict[int, list[float]] = {number: [] for number in units}
    for number in range(options.rounds + 1):
        for questions, (_, unit) in units.items():
            duration = timed(partial(encode, unit), device) / (images * questions)
            if number:  # the first round warms up
                seconds[questions].append(duration)
    ratios = [many / one for one, many in zip(seconds[1], seconds[_MANY], strict=True)]
    return {
        "model": config.model.name,
        "images": images,
        "questions": _MANY,
        "seconds_a_request": seconds,
        "ratio_rounds": ratios,
        "ratio": median(ratios),
    }


def table(figures: QuestionsFigures) -> Table:
    """Show both numbers of questions, and their ratio."""
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
