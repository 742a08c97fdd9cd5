"""Draws which patches were kept: one panel an output, kept patches lit and the others dimmed."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from pipeline.models.preprocess import preprocessor_of
from pipeline.output.layout import DATA
from pipeline.output.opened import Output
from pipeline.report.pictures import OutputImages, images_of, parse_key, read_images
from pipeline.stages.imaging import decode
from pipeline.storage.uris import Storage
from pipeline.support.errors import ConfigError, ShardError

DIMMED = 0.22
GAP_PX, TEXT_PX, LINE_PX = 8, 15, 20
COLUMNS = [
    "key",
    "question",
    "prediction",
    "reducer",
    "status",
    "error",
    "visual_tokens_full",
    "visual_tokens_kept",
    "kept_patches",
]
Row = dict[str, Any]  # of an Arrow table, a value of another type in each column
Pixels = NDArray[np.uint8]


def draw_kept(outputs: Sequence[Output], key: str, reading: Storage | None = None) -> Image.Image:
    """Draw the image of request `key` as the model saw it, with a panel and the answer of each output.

    Args:
        reading: how to reach the source; None: as the first output.

    Raises:
        ConfigError: an output has no such request, or the source no longer has the image.
    """
    rows = [find_row(output, key) for output in outputs]
    square = _square(images_of(outputs[0], reading), key)
    panels = [_panel(square, row) for row in rows]
    width = sum(panel.width for panel in panels) + GAP_PX * (len(panels) + 1)
    question = _wrapped(rows[0]["question"], width - 2 * GAP_PX)
    top = GAP_PX + LINE_PX * len(question)
    picture = Image.new("RGB", (width, top + GAP_PX + panels[0].height), "white")
    _write(ImageDraw.Draw(picture), (GAP_PX, GAP_PX // 2), question)
    for number, panel in enumerate(panels):
        picture.paste(panel, (GAP_PX + number * (panel.width + GAP_PX), top + GAP_PX))
    return picture


def find_row(output: Output, key: str) -> Row:
    """Find a row of an output by its key; ConfigError if it is not there."""
    shard, sample = parse_key(key)
    fs, path = output.storage.open(output.folder)
    for unit in output.finished.units(shard):
        if unit.first <= sample < unit.stop:
            with fs.open(f"{path}/{DATA}/{unit.file_name}", "rb") as file:
                table = pq.read_table(file, columns=COLUMNS)
            for row in table.filter(pc.field("key") == key).to_pylist():
                return dict(row)
    raise ConfigError(f"key: {output.storage.redact(output.folder)} has no request {key}")


def _square(images: OutputImages, key: str) -> Pixels:
    """Make the pixels that the vision tower saw: uint8 [S, S, 3]."""
    shard, sample = parse_key(key)
    try:
        data = dict(read_images(images, shard, [sample]))
    except ShardError as error:
        raise ConfigError(f"key: the image of {key} cannot be read any more: {error}") from None
    if sample not in data:
        raise ConfigError(f"key: the image of {key} cannot be read any more")
    return np.asarray(preprocessor_of(images.model)(decode(data[sample], images.imaging)[0]))


def _panel(square: Pixels, row: Row) -> Image.Image:
    side = len(square)
    text = row["error"] if row["kept_patches"] is None else row["prediction"]
    kept = row["visual_tokens_kept"] or 0
    lines = [f"{row['reducer']}: {kept} tokens", *_wrapped(text or "", side)[:3]]
    panel = Image.new("RGB", (side, side + LINE_PX * 4), "white")
    panel.paste(Image.fromarray(_lit(square, row["kept_patches"], row["visual_tokens_full"])))
    _write(ImageDraw.Draw(panel), (0, side + 2), lines)
    return panel


def _lit(square: Pixels, bitmap: bytes | None, num_patches: int | None) -> Pixels:
    """Darken the patches of a picture that a bitmap lacks; all of them if there is no bitmap.

    Args:
        num_patches: the number of the bitmap's bits that are patches; its last byte may have more bits.
    """
    grey = square.mean(-1, keepdims=True).repeat(3, -1)
    if bitmap is None or num_patches is None:
        return np.asarray((DIMMED * grey).astype(np.uint8))
    grid = math.isqrt(num_patches)
    bits = np.unpackbits(np.frombuffer(bitmap, np.uint8), count=grid**2).astype(bool)
    edges = np.arange(len(square)) * grid // len(square)
    lit = bits.reshape(grid, grid)[edges][:, edges]
    return np.asarray(np.where(lit[..., None], square, DIMMED * grey).astype(np.uint8))


def _font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size=TEXT_PX)


def _wrapped(text: str, width: int) -> list[str]:
    """Break a text into lines of at most `width` pixels, between words where possible."""
    font, lines = _font(), [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and font.getlength(longer) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines


def _write(pen: ImageDraw.ImageDraw, at: tuple[int, int], lines: Sequence[str]) -> None:
    for number, line in enumerate(lines):
        pen.text((at[0], at[1] + number * LINE_PX), line, fill="black", font=_font())
