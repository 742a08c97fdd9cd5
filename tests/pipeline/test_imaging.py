"""Encoded bytes to RGB: every mode that files come in, and what is refused."""

import io

import numpy as np
import pytest
from PIL import Image

from pipeline.errors import BadImage
from pipeline.imaging import Imaging, decode


def encoded(image, kind, **options):
    sink = io.BytesIO()
    image.save(sink, kind, **options)
    return sink.getvalue()


GRADIENT = Image.fromarray(np.linspace(0, 255, 60 * 40 * 3).reshape(40, 60, 3).astype(np.uint8))


@pytest.mark.parametrize(
    ("image", "kind"),
    [
        (GRADIENT, "JPEG"),
        (GRADIENT, "PNG"),
        (GRADIENT, "WEBP"),
        (GRADIENT.convert("L"), "JPEG"),
        (GRADIENT.convert("CMYK"), "JPEG"),
        (GRADIENT.convert("P"), "PNG"),
        (GRADIENT.convert("RGBA"), "PNG"),
        (GRADIENT.convert("LA"), "PNG"),
        (GRADIENT.convert("1"), "PNG"),
    ],
)
def test_every_mode_becomes_rgb(image, kind):
    rgb, width, height = decode(encoded(image, kind), Imaging())
    assert (rgb.mode, rgb.size, width, height) == ("RGB", (60, 40), 60, 40)


def test_sixteen_bits_keep_their_range():
    deep = Image.fromarray((np.arange(60 * 40).reshape(40, 60) * 27).astype(np.uint16))
    rgb, *_ = decode(encoded(deep, "PNG"), Imaging())
    expected = (np.arange(60 * 40).reshape(40, 60) * 27) >> 8
    assert np.abs(np.asarray(rgb)[..., 0].astype(int) - expected).max() <= 1


def test_exif_turns_the_picture_but_not_its_stored_size():
    exif = Image.Exif()
    exif[0x0112] = 6
    rgb, width, height = decode(encoded(GRADIENT, "JPEG", exif=exif), Imaging())
    assert (rgb.size, width, height) == ((40, 60), 60, 40)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"plain text",
        encoded(GRADIENT, "JPEG")[:300],
        encoded(GRADIENT, "GIF"),
        encoded(GRADIENT, "TIFF"),
    ],
    ids=["empty", "text", "truncated", "gif", "tiff"],
)
def test_what_cannot_be_decoded_is_a_bad_image(data):
    with pytest.raises(BadImage, match="cannot be decoded"):
        decode(data, Imaging())


def test_a_bomb_is_refused_before_it_is_decoded():
    bomb = encoded(Image.new("1", (20_000, 10_000)), "PNG")
    with pytest.raises(BadImage, match="20000 x 10000 pixels"):
        decode(bomb, Imaging())
    with pytest.raises(BadImage, match="max_pixels"):
        decode(encoded(GRADIENT, "PNG"), Imaging(max_pixels=100))
