"""Measures how many images a second one core decodes and scales, by format and size."""

import io
import time
from dataclasses import replace
from statistics import median
from typing import TypedDict

import numpy as np
from PIL import Image

from pipeline.benchmark.options import DecodeOptions
from pipeline.models.preprocess import preprocessor_of
from pipeline.run.config import RunConfig
from pipeline.stages.imaging import decode
from pipeline.support.table import Table

_FORMATS: dict[str, dict[str, int]] = {"JPEG": {"quality": 90}, "PNG": {}, "WEBP": {"quality": 90}}
_COARSE = 64  # pixels of a side of one soft shape


class DecodeRow(TypedDict):
    """Holds the figures of one format and size."""

    format: str
    side: int
    bytes: int
    full_images_per_s: float
    reduced_images_per_s: float
    mean_difference: float


class DecodeFigures(TypedDict):
    """Holds the pixels of the model's square, the measured `image.draft_gap`, and the rows."""

    model_side: int
    draft_gap: float
    rows: list[DecodeRow]


def measure(config: RunConfig, options: DecodeOptions) -> DecodeFigures:
    """Time decoding from encoded bytes to the model's square, for pictures of 4 : 3.

    Each picture is decoded at full scale and as `image` configures it, in turns.
    """
    preprocess = preprocessor_of(config.model)
    scales = {"full": replace(config.imaging, draft_gap=0), "reduced": config.imaging}
    rows: list[DecodeRow] = []
    for side in options.decode_sides:
        picture = _picture(side, 3 * side // 4)
        for name, settings in _FORMATS.items():
            data = _encoded(picture, name, settings)
            seconds: dict[str, list[float]] = {scale: [] for scale in scales}
            squares = {}
            for _ in range(options.rounds):
                for scale, imaging in scales.items():
                    started = time.perf_counter()
                    squares[scale] = preprocess(decode(data, imaging, preprocess.image_size)[0])
                    seconds[scale].append(time.perf_counter() - started)
            rows.append(
                {
                    "format": name,
                    "side": side,
                    "bytes": len(data),
                    "full_images_per_s": 1 / median(seconds["full"]),
                    "reduced_images_per_s": 1 / median(seconds["reduced"]),
                    "mean_difference": float(np.abs(squares["full"].astype(int) - squares["reduced"]).mean()),
                }
            )
    return {"model_side": preprocess.image_size, "draft_gap": config.imaging.draft_gap, "rows": rows}


def table(figures: DecodeFigures) -> Table:
    """Show a row for each format and size."""
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
    """Draw soft shapes with a sensor's noise; always the same."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (height // _COARSE + 2, width // _COARSE + 2, 3), np.uint8)
    smooth = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
    noisy = np.asarray(smooth) + rng.normal(0, 4, (height, width, 1))
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8))


def _encoded(picture: Image.Image, name: str, settings: dict[str, int]) -> bytes:
    sink = io.BytesIO()
    picture.save(sink, name, **settings)
    return sink.getvalue()
