"""Test each image format against Pillow's own reading of it, and the settings that choose formats."""

import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile, ImageOps, PngImagePlugin, features

from pipeline.stages.formats.openers import OPENERS
from pipeline.stages.formats.orientation import of_exif
from pipeline.stages.imaging import Imaging, decode
from pipeline.support.errors import BadImage, ConfigError
from pipeline.support.fields import fingerprint_fields
from pipeline.support.image_formats import IMAGE_FORMATS
from tests.support.corpus import encoded, picture

PICTURE = picture(3, 75, 50)
OTHER = picture(4, 75, 50)
XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'


def exif(turn: int) -> Image.Exif:
    tags = Image.Exif()
    tags[0x0112] = turn
    return tags


def by_pillow(data: bytes) -> Image.Image:
    return ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")


def require_as_pillow(data: bytes) -> None:
    rgb, *stored = decode(data, Imaging())
    assert rgb.mode == "RGB"
    assert rgb.tobytes() == by_pillow(data).tobytes()
    assert rgb.size in (tuple(stored), tuple(reversed(stored)))


ALPHA = PICTURE.copy()
ALPHA.putalpha(PICTURE.convert("L"))
MODES = {
    **{mode: PICTURE.convert(mode) for mode in ("1", "L", "P", "RGB", "CMYK", "YCbCr", "LAB")},
    **{"RGBA": ALPHA, "LA": ALPHA.convert("LA"), "PA": ALPHA.convert("PA")},
}
WRITTEN = {
    "GIF": ("1", "L", "P", "RGB", "RGBA"),
    "BMP": ("1", "L", "P", "RGB", "RGBA"),
    "DIB": ("1", "L", "P", "RGB"),
    "TIFF": ("1", "L", "P", "RGB", "RGBA", "LA", "CMYK", "YCbCr", "LAB"),
    "AVIF": ("L", "RGB", "RGBA", "LA"),
    "PNG": ("1", "L", "P", "RGB", "RGBA", "LA"),
    "WEBP": ("RGB", "RGBA"),
    "JPEG": ("L", "RGB", "CMYK"),
}


@pytest.mark.parametrize(
    ("kind", "mode"), [(kind, mode) for kind, modes in WRITTEN.items() for mode in modes], ids=str
)
def test_every_mode_is_read_as_by_pillow(kind, mode):
    require_as_pillow(encoded(MODES[mode], kind))


@pytest.mark.parametrize("interlace", [0, 1])
def test_gifs_with_transparency_and_interlacing(interlace):
    paletted = PICTURE.convert("P", palette=Image.Palette.ADAPTIVE, colors=40)
    require_as_pillow(encoded(paletted, "GIF", transparency=3, interlace=interlace))


COMPRESSIONS = ["raw", "tiff_lzw", "tiff_adobe_deflate", "tiff_deflate", "packbits", "jpeg", "zstd"]


@pytest.mark.parametrize("compression", COMPRESSIONS)
@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_tiff_compressions(compression, mode):
    require_as_pillow(encoded(MODES[mode], "TIFF", compression=compression))


@pytest.mark.parametrize("compression", ["group3", "group4", "tiff_ccitt", "raw"])
def test_tiffs_of_one_bit(compression):
    require_as_pillow(encoded(MODES["1"], "TIFF", compression=compression))


@pytest.mark.parametrize("rows", [1, 7, 50])
@pytest.mark.parametrize("big", [False, True])
def test_tiff_strips_and_big_tiffs(rows, big):
    require_as_pillow(
        encoded(PICTURE, "TIFF", compression="tiff_lzw", strip_size=75 * 3 * rows, big_tiff=big)
    )


def tiff(size, bits, photometric, body, *, order="<", tiles=None, sample_format=1, planar=1) -> bytes:
    """Make a TIFF of one strip, or of tiles of a size."""
    short, long = 3, 4
    entries = {
        **{256: (long, [size[0]]), 257: (long, [size[1]]), 258: (short, bits), 259: (short, [1])},
        **{262: (short, [photometric]), 277: (short, [len(bits)]), 284: (short, [planar])},
        339: (short, [sample_format] * len(bits)),
    }
    parts = 1
    if tiles:
        parts = -(-size[0] // tiles[0]) * -(-size[1] // tiles[1])
        entries |= {322: (long, [tiles[0]]), 323: (long, [tiles[1]])}
    places, sizes = ((324, 325) if tiles else (273, 279)) if planar == 1 else (273, 279)
    parts = len(bits) if planar == 2 else parts
    entries |= {places: (long, [0] * parts), sizes: (long, [len(body) // parts] * parts)}
    start = 8 + 2 + 12 * len(entries) + 4
    values = {
        tag: struct.pack(f"{order}{len(v)}{'H' if k == short else 'L'}", *v)
        for tag, (k, v) in entries.items()
    }
    data_at = start + sum(len(value) for value in values.values() if len(value) > 4)
    offsets = [data_at + part * (len(body) // parts) for part in range(parts)]
    values[places] = struct.pack(f"{order}{parts}L", *offsets)
    directory, extra = b"", b""
    for tag, (kind, numbers) in sorted(entries.items()):
        value = values[tag]
        if len(value) > 4:
            value, extra = struct.pack(f"{order}L", start + len(extra)), extra + value
        directory += struct.pack(f"{order}HHL", tag, kind, len(numbers)) + value.ljust(4, b"\0")
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}LH", 8, len(entries))
    return head + directory + bytes(4) + extra + body


@pytest.mark.parametrize("order", ["<", ">"])
def test_tiled_and_planar_tiffs(order):
    pixels = np.asarray(PICTURE.resize((64, 48)))
    blocks = pixels.reshape(3, 16, 4, 16, 3).swapaxes(1, 2).tobytes()
    tiled = tiff((64, 48), [8, 8, 8], 2, blocks, order=order, tiles=(16, 16))
    planar = tiff((64, 48), [8, 8, 8], 2, pixels.transpose(2, 0, 1).tobytes(), order=order, planar=2)
    for data in (tiled, planar):
        assert np.array_equal(np.asarray(decode(data, Imaging())[0]), pixels)
        require_as_pillow(data)


@pytest.mark.parametrize("order", ["<", ">"])
def test_grey_values_of_more_than_eight_bits_keep_their_range(order):
    values = (np.arange(40 * 60).reshape(40, 60) * 27).astype(f"{order}u2")
    for kind in ("TIFF", "PNG"):
        data = encoded(Image.fromarray(values.astype("<u2")), kind)
        assert abs(np.asarray(decode(data, Imaging())[0])[..., 1].astype(int) - (values >> 8)).max() <= 1
    deep = decode(tiff((60, 40), [16], 1, values.tobytes(), order=order), Imaging())[0]
    assert abs(np.asarray(deep)[..., 0].astype(int) - (values >> 8)).max() <= 1


def test_twelve_bits_keep_their_range():
    values = np.arange(64 * 64).reshape(64, 64)
    first, second = values[:, ::2], values[:, 1::2]
    packed = np.stack([first >> 4, (first & 15) << 4 | second >> 8, second & 255], axis=-1).astype(np.uint8)
    rgb = decode(tiff((64, 64), [12], 1, packed.tobytes()), Imaging())[0]
    assert abs(np.asarray(rgb)[..., 0].astype(int) - (values >> 4)).max() <= 1


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.array([[0.0, 0.5, 1.0]], "<f4"), [0, 127, 255]),
        (np.array([[0.0, 10.0, 255.0]], "<f4"), [0, 10, 255]),
        (np.array([[0, 10, 255]], "<i4"), [0, 10, 255]),
        (np.array([[0, 2560, 65535]], "<i4"), [0, 10, 255]),
    ],
    ids=["fractions", "floats", "small", "large"],
)
def test_values_without_a_range_of_their_own(values, expected):
    kind = 3 if values.dtype.kind == "f" else 2
    rgb = decode(tiff((3, 1), [32], 1, values.tobytes(), sample_format=kind), Imaging())[0]
    assert np.asarray(rgb)[0, :, 0] == pytest.approx(expected, abs=1)


@pytest.mark.parametrize(
    "values",
    [
        *(np.array([[0.0, wrong]], "<f4") for wrong in (-1.0, 256.0, np.inf, np.nan)),
        *(np.array([[0, wrong]], "<i4") for wrong in (-1, 65536)),
    ],
    ids=str,
)
def test_values_beyond_every_range_are_refused(values):
    kind = 3 if values.dtype.kind == "f" else 2
    with pytest.raises(BadImage, match="its values lie in"):
        decode(tiff((2, 1), [32], 1, values.tobytes(), sample_format=kind), Imaging())


@pytest.mark.parametrize("kind", ["GIF", "TIFF", "AVIF", "WEBP", "PNG"])
def test_the_first_frame_or_page_is_taken(kind):
    data = encoded(PICTURE, kind, save_all=True, append_images=[OTHER, OTHER])
    first = by_pillow(data)
    assert first.tobytes() != by_pillow(encoded(OTHER, kind)).tobytes()
    assert decode(data, Imaging())[0].tobytes() == first.tobytes()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
@pytest.mark.parametrize("turn", range(1, 9))
def test_each_orientation_is_applied_once(kind, turn):
    data = encoded(PICTURE, kind, exif=exif(turn))
    require_as_pillow(data)
    rgb, *stored = decode(data, Imaging())
    assert tuple(stored) == (75, 50)
    assert rgb.size == ((50, 75) if turn > 4 else (75, 50))


def text_chunk(kind: bytes, name: bytes, value: bytes) -> bytes:
    body = kind + name + b"\0" + value
    return struct.pack(">L", len(body) - 4) + body + struct.pack(">L", zlib.crc32(body))


def with_chunk(chunk: bytes, place: int) -> bytes:
    data = encoded(PICTURE, "PNG")
    return data[:place] + chunk + data[place:]


RAW_EXIF = b"\nexif\n  %d\n%s\n" % (40, exif(6).tobytes().hex().encode())


@pytest.mark.parametrize("place", [33, -12], ids=["before", "behind"])
@pytest.mark.parametrize(
    "chunk",
    [
        text_chunk(b"iTXt", b"XML:com.adobe.xmp", b"\0\0\0\0" + XMP),
        text_chunk(b"iTXt", b"XML:com.adobe.xmp", b"\1\0en\0name\0" + zlib.compress(XMP + bytes(5 << 20))),
        text_chunk(b"zTXt", b"Raw profile type exif", b"\0" + zlib.compress(RAW_EXIF)),
        text_chunk(b"tEXt", b"Raw profile type exif", RAW_EXIF),
    ],
    ids=["xmp", "large xmp", "raw exif", "plain raw exif"],
)
def test_pngs_orientation_in_texts(chunk, place):
    rgb = decode(with_chunk(chunk, place), Imaging())[0]
    assert rgb.tobytes() == PICTURE.transpose(Image.Transpose.ROTATE_270).tobytes()


@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "TIFF"])
def test_orientation_in_xmp_alone(kind):
    options = {"tiffinfo": {700: XMP}} if kind == "TIFF" else {"xmp": XMP}
    data = encoded(PICTURE, kind, **options)
    require_as_pillow(data)
    assert decode(data, Imaging())[0].size == (50, 75)


@pytest.mark.parametrize(
    "chunk",
    [
        text_chunk(b"zTXt", b"Comment", b"\0" + zlib.compress(bytes(2 << 20))),
        text_chunk(b"tEXt", b"Comment", b"x" * (80 << 20)),
        text_chunk(b"iTXt", b"XML:com.adobe.xmp", b"\0\0\0\0" + b"<x/>" * (20 << 20)),
        text_chunk(b"iCCP", b"icc", b"\0" + zlib.compress(bytes(3 << 20))),
    ],
    ids=["compressed text", "text", "xmp", "profile"],
)
@pytest.mark.parametrize("place", [33, -12], ids=["before", "behind"])
def test_pngs_with_much_metadata_are_decoded(chunk, place):
    assert decode(with_chunk(chunk, place), Imaging())[0].tobytes() == PICTURE.tobytes()


ENTRY = st.tuples(
    st.sampled_from([0x0112, 0x010F, 0x8769]),
    st.integers(0, 14),
    st.sampled_from([0, 1, 2, 3, 5000]),
    st.one_of(st.integers(0, 9), st.integers(0, 0xFFFF_FFFF), st.integers(0, 9).map(lambda n: n << 16)),
)


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@settings(max_examples=300)
@given(
    st.sampled_from("<>"),
    st.lists(ENTRY, max_size=5, unique_by=lambda entry: entry[0]),
    st.sampled_from([8, 8, 8, 10, 500]),
    st.binary(max_size=30),
    st.sampled_from([b"", b"Exif\0\0", b"Exif\0\0Exif\0\0"]),
)
def test_the_orientation_is_that_which_pillow_reads(order, entries, start, rest, head):
    data = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}LH", start, len(entries))
    data = head + data + b"".join(struct.pack(f"{order}HHLL", *entry) for entry in entries) + rest
    tags = Image.Exif()
    try:
        tags.load(data)
        expected = tags.get(0x0112)
    except (OSError, SyntaxError, struct.error, ValueError):
        expected = None
    assert of_exif(memoryview(data)) == (expected if isinstance(expected, int) else None)


@pytest.mark.parametrize("name", IMAGE_FORMATS)
def test_a_format_that_is_switched_off_is_named(name):
    others = [other for other in IMAGE_FORMATS if other != name]
    data = encoded(PICTURE, name)
    with pytest.raises(BadImage, match=rf"is a {IMAGE_FORMATS[name].name}, which image\.formats leaves out"):
        decode(data, Imaging(formats=others))
    assert decode(data, Imaging(formats=[name]))[0].size == (75, 50)


@pytest.mark.parametrize("formats", [["jpg"], ["png", "heic"], ["JPEG"], []])
def test_an_unknown_format_is_one_line(formats):
    with pytest.raises(ConfigError, match=r"^image\.formats.*jpeg, png, webp, gif, bmp, tiff, avif$"):
        Imaging(formats=formats)


def test_default_settings_are_not_in_the_fingerprint():
    """Outputs made before there were these settings are continued."""
    assert fingerprint_fields(Imaging()) == {"max_pixels": 100_000_000, "draft_gap": 3.0}
    assert fingerprint_fields(Imaging(formats=list(reversed(IMAGE_FORMATS)))) == fingerprint_fields(Imaging())
    fewer = fingerprint_fields(Imaging(formats=["png", "jpeg", "png"], allow_truncated=True))
    assert (fewer["formats"], fewer["allow_truncated"]) == (["jpeg", "png"], True)


def test_the_installed_pillow_reads_every_format():
    assert features.check("avif") and all(opener.can_be_read for opener in OPENERS.values())


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP", "GIF", "TIFF"])
def test_a_cut_file_is_decoded_as_far_as_it_goes_if_it_may_be(kind):
    large = picture(3, 600, 400)
    # a TIFF whose directory comes first
    whole = tiff((600, 400), [8, 8, 8], 2, large.tobytes()) if kind == "TIFF" else encoded(large, kind)
    cut = whole[: int(len(whole) * 0.7)]
    with pytest.raises(BadImage, match="cannot be decoded"):
        decode(cut, Imaging())
    rgb = np.asarray(decode(cut, Imaging(allow_truncated=True))[0])
    complete = np.asarray(decode(whole, Imaging())[0])
    rows = slice(300, 400) if kind == "BMP" else slice(0, 100)  # a BMP begins with its last row
    assert np.array_equal(rgb[rows], complete[rows]) and not np.array_equal(rgb, complete)
    assert ImageFile.LOAD_TRUNCATED_IMAGES is False
    with pytest.raises(BadImage, match="cannot be decoded"):
        decode(cut, Imaging())


def test_sound_files_are_decoded_alike_whether_cut_ones_may_be_or_not():
    for kind in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF"):
        data = encoded(PICTURE, kind)
        strict, lenient = (decode(data, Imaging(allow_truncated=allowed))[0] for allowed in (False, True))
        assert strict.tobytes() == lenient.tobytes()
    assert PngImagePlugin.MAX_TEXT_CHUNK <= 1 << 20
