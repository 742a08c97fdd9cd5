"""Test decoding images to RGB: every mode that files have, and the refusals."""

import io
import os
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps

from pipeline.stages.imaging import Imaging, decode
from pipeline.support import memory
from pipeline.support.errors import BadImage

pytestmark = pytest.mark.usefixtures("nothing_kept")

KINDS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")


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
        *(encoded(GRADIENT, kind)[:100] for kind in KINDS),
    ],
    ids=["empty", "text", "truncated", *KINDS],
)
def test_an_undecodable_file_is_a_bad_image(data):
    with pytest.raises(BadImage, match="cannot be decoded"):
        decode(data, Imaging())


def test_a_bomb_is_refused_before_it_is_decoded():
    bomb = encoded(Image.new("1", (20_000, 10_000)), "PNG")
    with pytest.raises(BadImage, match="20000 x 10000 pixels"):
        decode(bomb, Imaging())
    with pytest.raises(BadImage, match="max_pixels"):
        decode(encoded(GRADIENT, "PNG"), Imaging(max_pixels=100))


@pytest.mark.parametrize("turn", range(1, 9))
def test_each_exif_orientation_is_applied_as_by_pillow(turn):
    exif = Image.Exif()
    exif[0x0112] = turn
    data = encoded(GRADIENT, "PNG", exif=exif)
    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    assert decode(data, Imaging())[0].tobytes() == expected.tobytes()


def test_no_other_decoder_is_used(tmp_path, monkeypatch):
    """All other formats that Pillow writes are refused, and Ghostscript is not started by any."""
    started = tmp_path / "started"
    program = tmp_path / "gs"
    program.write_text(f"#!/bin/sh\ntouch {started}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    Image.init()
    other_formats = sorted(set(Image.SAVE) - {*KINDS, "MPO", "DIB"})
    assert len(other_formats) > 15 and "EPS" in other_formats
    refused = 0
    for kind in other_formats:
        try:
            data = encoded(GRADIENT, kind)
        except (OSError, ValueError, KeyError, RuntimeError):  # not in this mode, or not in this Pillow
            continue
        if data[:2] != b"\xff\xd8":  # a JPEG under another name is accepted as a JPEG
            with pytest.raises(BadImage, match="no JPEG, PNG, WebP, GIF, BMP, TIFF or AVIF"):
                decode(data, Imaging())
            refused += 1
    assert refused > 10 and not started.exists()


def test_an_mpo_gives_its_first_jpeg():
    several = encoded(GRADIENT, "MPO", save_all=True, append_images=[GRADIENT.rotate(90)])
    assert (
        decode(several, Imaging())[0].tobytes() == decode(encoded(GRADIENT, "JPEG"), Imaging())[0].tobytes()
    )


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


ZEROS = zlib.compress(bytes(300 << 20), 1)  # 1.3 MB


@pytest.mark.parametrize("place", [33, -12], ids=["before", "behind"])
@pytest.mark.parametrize(
    "bomb",
    [b"zTXt" + b"Comment\0\0", b"iTXt" + b"Comment\0\1\0\0\0", b"iCCP" + b"icc\0\0"],
    ids=lambda bomb: bomb[:4],
)
def test_a_bomb_beside_the_pixels_is_not_inflated(bomb, place):
    """300 MB of text or profile in a PNG: it is a fault or skipped within 100 MB."""
    png = encoded(GRADIENT, "PNG")
    data = png[:place] + chunk(bomb[:4], bomb[4:] + ZEROS) + png[place:]
    with memory.at_most(100 << 20):
        try:
            assert decode(data, Imaging())[0].size == (60, 40)
        except BadImage as fault:
            assert "memory" not in str(fault).lower()


def test_an_animation_with_a_huge_canvas_is_refused_before_it_is_decoded():
    animation = encoded(GRADIENT, "WEBP", save_all=True, append_images=[GRADIENT.rotate(90)])
    at = animation.index(b"VP8X") + 12
    with pytest.raises(BadImage):
        decode(animation[:at] + b"\x00\x3f\x00" * 2 + animation[at + 6 :], Imaging())


def test_a_jpeg_of_very_many_scans_is_refused():
    """Each scan of a few bytes is a pass over all pixels, so decoding would take hours."""
    jpeg = encoded(Image.new("L", (4000, 4000)), "JPEG", progressive=True)
    at = jpeg.rindex(b"\xff\xda")
    with pytest.raises(BadImage, match="scans"):
        decode(jpeg[:at] + jpeg[at:-2] * 2000 + jpeg[-2:], Imaging())
    assert decode(jpeg, Imaging())[1:] == (4000, 4000)
