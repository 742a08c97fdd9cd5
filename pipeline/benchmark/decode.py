"""Images a second that one core decodes and scales, by format and size, at reduced scale and in full."""

import io
import time
from collections.abc import Sequence
from dataclasses import replace
from statistics import median
from typing import Any

import numpy as np
from PIL import Image

from pipeline.models.config import Model
from pipeline.models.preprocess import preprocessor_of
from pipeline.stages.imaging import Imaging, decode
from pipeline.support.table import Table

_FORMATS = {"JPEG": {"quality": 90}, "PNG": {}, "WEBP": {"quality": 90}}
_COARSE = 64  # pixels of a side that stand for one shape


def measure(model: Model, imaging: Imaging, sides: Sequence[int], rounds: int) -> dict[str, Any]:
    """Images a second from encoded bytes to the model's square, for pictures of 4 : 3 with such long sides.

    Each is decoded in full and, where that makes a difference, as `imaging` says; the two take turns.
    """
    preprocess = preprocessor_of(model)
    ways = {"full": replace(imaging, draft_gap=0), "reduced": imaging}
    rows = []
    for side in sides:
        picture = _picture(side, 3 * side // 4)
        for name, options in _FORMATS.items():
            data = _encoded(picture, name, options)
            seconds: dict[str, list[float]] = {way: [] for way in ways}
            squares = {}
            for _ in range(rounds):
                for way, how in ways.items():
                    started = time.perf_counter()
                    squares[way] = preprocess(decode(data, how, preprocess.image_size)[0])
                    seconds[way].append(time.perf_counter() - started)
            apart = np.abs(squares["full"].astype(int) - squares["reduced"])
            row: dict[str, Any] = {"format": name, "side": side, "bytes": len(data)}
            row |= {f"{way}_images_per_s": 1 / median(taken) for way, taken in seconds.items()}
            rows.append(row | {"mean_difference": float(apart.mean())})
    return {"model_side": preprocess.image_size, "draft_gap": imaging.draft_gap, "rows": rows}


def table(figures: dict[str, Any]) -> Table:
    """A row for each format and size."""
    rows = [
        (
            f"{row['format']} {row['side']} x {3 * row['side'] // 4}",
            row["bytes"] / 2**20,
            row["full_images_per_s"],
            row["reduced_images_per_s"],
            row["mean_difference"],
        )
        for row in figures["rows"]
    ]
    return Table(
        f"decode: images a second on one core, to squares of {figures['model_side']} pixels",
        ("", "MiB", "every pixel", f"draft_gap={figures['draft_gap']:g}", "mean difference of 255"),
        rows,
    )


def _picture(width: int, height: int) -> Image.Image:
    """Soft shapes with a sensor's noise; always the same."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (height // _COARSE + 2, width // _COARSE + 2, 3), np.uint8)
    smooth = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
    noisy = np.asarray(smooth) + rng.normal(0, 4, (height, width, 1))
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8))


def _encoded(picture: Image.Image, name: str, options: dict[str, Any]) -> bytes:
    sink = io.BytesIO()
    picture.save(sink, name, **options)
    return sink.getvalue()
