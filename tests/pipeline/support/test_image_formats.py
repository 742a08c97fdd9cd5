"""Decoding, base64 in tables and exported names agree on what is an image of which format."""

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.export.names import image_suffix
from pipeline.sources.cells import image_or_path, is_inline
from pipeline.stages.formats.openers import OPENERS
from pipeline.stages.imaging import Imaging, decode
from pipeline.support.errors import BadImage
from pipeline.support.image_formats import HEAD_BYTES, IMAGE_FORMATS, format_of, is_surely_image
from tests.support.corpus import encoded, picture

TIFF = encoded(picture(1), "TIFF")
AVIF = encoded(picture(1), "AVIF")
OLD_DIB = b"\x0c\0\0\0\x20\0\x10\0\1\0\x18\0" + bytes(range(96)) * 16
# Files of every way to begin that is read: format and content.
FILES = {
    **{
        name: (name.lower(), encoded(picture(1), name))
        for name in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "AVIF")
    },
    "DIB": ("bmp", encoded(picture(1), "DIB")),
    "DIB of 12 bytes": ("bmp", OLD_DIB),
    "TIFF": ("tiff", TIFF),
    "TIFF of Motorola's order": ("tiff", encoded(picture(1).convert("I;16B"), "TIFF")),
    "TIFF with a swapped mark": ("tiff", TIFF[:2] + b"\0*" + TIFF[4:]),
    "BigTIFF": ("tiff", encoded(picture(1), "TIFF", big_tiff=True)),
    "AVIF of brand mif1": ("avif", AVIF[:8] + b"mif1" + AVIF[12:]),
}


@pytest.mark.parametrize("name", FILES)
def test_all_readers_agree(name):
    key, data = FILES[name]
    assert format_of(data) == format_of(memoryview(data)) == key
    assert is_surely_image(data[:48])
    assert decode(data, Imaging())[1:] == ((32, 16) if data is OLD_DIB else (64, 48))
    assert image_or_path(base64.b64encode(data).decode()) == data
    assert image_suffix(data) == IMAGE_FORMATS[key].suffix


def test_every_format_has_an_opener():
    assert list(OPENERS) == list(IMAGE_FORMATS)


@given(
    st.sampled_from(list(FILES)).map(lambda name: FILES[name][1][:HEAD_BYTES]),
    st.binary(max_size=40),
    st.data(),
)
def test_no_file_is_of_one_format_for_decoding_and_another_for_its_name(head, rest, draw):
    changed = bytearray(head + rest)
    changed[draw.draw(st.integers(0, len(changed) - 1))] = draw.draw(st.integers(0, 255))
    data = bytes(changed)
    key = format_of(data)
    assert image_suffix(data) == ("jpg" if key is None else IMAGE_FORMATS[key].suffix)
    if is_surely_image(data):
        assert key is not None
    if key is None:
        with pytest.raises(BadImage, match="it is no JPEG"):
            decode(data, Imaging())


# "Qk" is base64 of BM, "KAAAA" of a DIB's size, and so on: these begin like images, and are paths.
STARTS = ("Qk", "QkFU", "KAAAA", "DAAAA", "fAAAA", "UklGR", "R0lGO", "iVBOR")
NAMES = st.text("abcdefghijklmnopqrstuvwxyz/", min_size=64, max_size=200)


@given(st.sampled_from(STARTS), NAMES)
def test_paths_that_begin_like_images_stay_paths(start, rest):
    assert not is_inline(start + rest) and image_or_path(start + rest) == start + rest
