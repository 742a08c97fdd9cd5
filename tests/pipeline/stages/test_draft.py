"""Test decoding large JPEGs at a reduced scale: the error stays small, and small images are not reduced."""

import io
from pathlib import Path

import numpy as np
import pytest
import skimage.data
from PIL import Image

from pipeline.models.preprocess import resize_and_crop
from pipeline.stages.imaging import Imaging, decode
from pipeline.support.errors import BadImage

SIDE = 336
EXACT = Imaging(draft_gap=0)


def photograph(width: int, height: int) -> Image.Image:
    """Tile photographs at their own scale and add sensor noise: as much detail as a camera's."""
    rng = np.random.default_rng(0)
    folder = Path(skimage.data.__file__).parent
    parts = [
        Image.open(folder / name).convert("RGB") for name in ("astronaut.png", "coffee.png", "rocket.jpg")
    ]
    canvas = Image.new("RGB", (width, height))
    for top in range(0, height, 400):
        x = 0
        while x < width:
            part = parts[rng.integers(len(parts))]
            canvas.paste(part, (x, top))
            x += part.width
    noisy = np.asarray(canvas) + rng.normal(0, 4, (height, width, 1))
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8))


def jpeg(image: Image.Image, **options) -> bytes:
    sink = io.BytesIO()
    image.save(sink, "JPEG", quality=90, **options)
    return sink.getvalue()


LARGE = jpeg(photograph(2800, 2100))


def square(rgb: Image.Image) -> np.ndarray:
    return np.asarray(resize_and_crop(rgb, SIDE, Image.Resampling.BICUBIC)).astype(int)


@pytest.mark.parametrize(
    ("gap", "size", "mean", "most"), [(3, (1400, 1050), 0.5, 4), (2, (1400, 1050), 1, 8)]
)
def test_a_large_picture_differs_by_less_than_the_documented_bounds(gap, size, mean, most):
    rgb, *stored = decode(LARGE, Imaging(draft_gap=gap), SIDE)
    assert rgb.size == size
    assert stored == [2800, 2100]
    apart = abs(square(rgb) - square(decode(LARGE, EXACT, SIDE)[0]))
    assert apart.mean() < mean
    assert np.quantile(apart, 0.999) <= most


@pytest.mark.parametrize(
    ("data", "imaging", "side"),
    [
        (LARGE, EXACT, SIDE),
        (LARGE, Imaging(), None),
        (LARGE, Imaging(draft_gap=4), SIDE),
        (jpeg(photograph(6000, 1000)), Imaging(), SIDE),
    ],
    ids=["off", "unknown side", "wider gap", "one short side"],
)
def test_cases_that_are_decoded_at_full_scale(data, imaging, side):
    rgb, width, height = decode(data, imaging, side)
    assert rgb.size == (width, height)


def test_rotation_and_truncation_are_handled_as_at_full_scale():
    exif = Image.Exif()
    exif[0x0112] = 6
    rgb, *stored = decode(jpeg(photograph(2800, 2100), exif=exif), Imaging(), SIDE)
    assert rgb.size == (1050, 1400)
    assert stored == [2800, 2100]
    with pytest.raises(BadImage, match="truncated"):
        decode(LARGE[: len(LARGE) // 2], Imaging(), SIDE)
