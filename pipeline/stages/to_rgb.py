"""Converts pictures of every mode that Pillow has to RGB of eight bits."""

from collections.abc import Iterator

import numpy as np
from PIL import Image

from pipeline.stages.formats.opening import damaged

_BAND = 1 << 22  # pixels converted at a time


def to_rgb(image: Image.Image, bits: int | None = None) -> Image.Image:
    """Convert a picture to RGB, as Pillow does; its transparency is dropped.

    Pillow would clip values of more than eight bits to 255. Those of 16 bits keep their range here. Whole
    numbers of 32 bits or with a sign, and fractions, have no range of their own: they may lie in 0 to 255,
    whole numbers in 0 to 65535, and fractions in 0 to 1.

    Args:
        bits: of a grey value, if the file has neither 8 nor 16.

    Raises:
        BadImage: such values lie beyond these ranges.
    """
    if image.mode == "RGB":
        return image
    if image.mode.startswith("I;16"):
        divisor = 2.0 ** ((bits or 16) - 8)
    elif image.mode in ("I", "F"):
        divisor = _divisor(image)
    else:
        return image.convert("RGB")
    rgb = Image.new("RGB", image.size)
    for top, band in _bands(image):
        values = band if band.mode == "F" else band.convert("I")
        rgb.paste(values.point(lambda value: value / divisor).convert("L").convert("RGB"), (0, top))
    return rgb


def _divisor(image: Image.Image) -> float:
    """Choose what brings the values of a picture into 0 to 255."""
    lowest, highest = np.inf, -np.inf
    for _, band in _bands(image):
        values = np.asarray(band)
        lowest, highest = np.minimum(lowest, values.min()), np.maximum(highest, values.max())
    ranges = (1, 255) if image.mode == "F" else (255, 65535)
    for largest in ranges:
        if lowest >= 0 and highest <= largest:
            return 256.0 if largest == 65535 else largest / 255
    raise damaged(f"its values lie in {lowest:g} to {highest:g}, not in 0 to {' or '.join(map(str, ranges))}")


def _bands(image: Image.Image) -> Iterator[tuple[int, Image.Image]]:
    """Cut a picture into bands of rows, so that what is made of each takes little memory."""
    width, height = image.size
    rows = max(1, _BAND // width)
    for top in range(0, height, rows):
        yield top, image.crop((0, top, width, min(top + rows, height)))
