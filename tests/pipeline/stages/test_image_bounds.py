"""Test that no image, whatever it declares, makes its decoder work or allocate without bounds."""

import re
import struct
import zlib

import pytest
from PIL import Image

from pipeline.stages.formats.opening import MOST_PARTS
from pipeline.stages.imaging import Imaging, decode
from pipeline.support import memory
from pipeline.support.errors import BadImage
from tests.support.corpus import encoded, picture

pytestmark = pytest.mark.usefixtures("nothing_kept")

SMALL = picture(1)
JPEG, PNG, GIF = (encoded(SMALL, kind) for kind in ("JPEG", "PNG", "GIF"))
ROOM = 100 << 20
MANY = MOST_PARTS + 1


def chunk(kind: bytes, data: bytes = b"") -> bytes:
    return struct.pack(">L", len(data)) + kind + data + struct.pack(">L", zlib.crc32(kind + data))


def segment(kind: int, data: bytes) -> bytes:
    return bytes([0xFF, kind]) + struct.pack(">H", len(data) + 2) + data


def directory(entries, *, body=b"", following=0, count=None) -> bytes:
    """Make a little-endian TIFF of entries (tag, kind, count, value), with a body behind the directory."""
    head = b"II*\0" + struct.pack("<LH", 8, len(entries) if count is None else count)
    return head + b"".join(struct.pack("<HHLL", *e) for e in entries) + struct.pack("<L", following) + body


def page(width, height, *, compression=1, rows=None, strips=1, sizes=None, body=b"", extra=()) -> bytes:
    """Make a grey TIFF whose strips all begin at the start of the body."""
    entries = sorted(
        [
            *((256, 4, 1, width), (257, 4, 1, height), (258, 3, 1, 8), (259, 3, 1, compression)),
            *((262, 3, 1, 1), (277, 3, 1, 1), (278, 4, 1, rows or height), *extra),
        ]
    )
    start = 8 + 2 + 12 * (len(entries) + 2) + 4
    lists = b""
    if strips > 1:
        data = start + 8 * strips
        lists = struct.pack(f"<{strips}L", *[data] * strips) + struct.pack(f"<{strips}L", *sizes)
        entries += [(273, 4, strips, start), (279, 4, strips, start + 4 * strips)]
    else:
        entries += [(273, 4, 1, start), (279, 4, 1, len(body))]
    return directory(sorted(entries), body=lists + body)


def bitmap(width, height, body, *, bits=8, compression=1) -> bytes:
    info = struct.pack("<LllHHLLllLL", 40, width, height, 1, bits, compression, 0, 0, 0, 256, 0)
    return b"BM" + struct.pack("<LHHL", 0, 0, 0, 54 + 1024) + info + bytes(1024) + body


def gif(before: bytes, size=(16, 16)) -> bytes:
    """Put bytes before the first picture of a GIF."""
    data = encoded(Image.new("P", (16, 16)), "GIF")
    at = data.index(b",", 13)
    return data[:6] + struct.pack("<HH", *size) + data[10:at] + before + data[at:]


def scans(size, count, **options) -> bytes:
    """Repeat the last scan of a progressive JPEG, a pass over all pixels in a few bytes."""
    data = encoded(Image.new("L", size), "JPEG", progressive=True, **options)
    at = data.rindex(b"\xff\xda")
    return data[:at] + data[at:-2] * count + data[-2:]


def ispe(width, height, data) -> bytes:
    at = data.index(b"ispe") + 8
    return data[:at] + struct.pack(">LL", width, height) + data[at + 8 :]


def frames(count) -> bytes:
    """Repeat the frame of an AVIF's picture; a decoder works through those that are not shown."""
    data = encoded(SMALL, "AVIF")
    start = data.index(b"mdat") + 4
    picture = data[start:]
    frame = picture[picture.index(b"\x32") :]
    longer = picture + frame * (count - 1)
    places = (struct.pack(">LL", start, len(part)) for part in (picture, longer))
    return data[:start].replace(*places) + longer


AVIF = encoded(SMALL, "AVIF")
WEBP = encoded(SMALL, "WEBP", lossless=True)
SCANS = scans((2000, 2000), 990)
REFUSED = {
    "jpeg of many segments": (JPEG[:2] + b"\xff\xe1\0\2" * MANY + JPEG[2:], "segments"),
    "jpeg of many comments": (JPEG[:2] + segment(0xFE, b"x") * MANY + JPEG[2:], "segments"),
    "jpeg of many tables": (JPEG[:2] + segment(0xDB, bytes(65 * 900)) * 30 + JPEG[2:], "headers"),
    "jpeg of many frames": (JPEG[:2] + segment(0xC0, bytes(60_000)) * 30 + JPEG[2:], "headers"),
    "jpeg of many scans": (scans((4000, 4000), 200), "scans"),
    "jpeg of many bytes in scans": (scans((4000, 4000), 1) + bytes(75_000_000), "bytes"),
    "webp of many bytes": (encoded(SMALL, "WEBP") + bytes(40_000_000), "bytes"),
    "png of many chunks": (PNG[:33] + chunk(b"abCd") * MANY + PNG[33:], "chunks"),
    "png of many pixel chunks": (PNG[:33] + chunk(b"IDAT") * MANY + PNG[33:], "chunks"),
    "png of many texts": (PNG[:33] + chunk(b"tEXt", b"a\0b") * MANY + PNG[33:], "chunks"),
    "png of many bytes": (PNG[:16] + struct.pack(">LLBB", 10_000, 10_000, 16, 6) + PNG[26:], "bytes"),
    "gif of many blocks": (gif(b"!\xfe" + b"\1a" * MANY + b"\0"), "blocks"),
    "gif of many comments": (gif(b"!\xfe\1a\0" * MANY), "blocks"),
    "gif of a huge screen": (gif(b"", (65535, 65535)), "max_pixels"),
    "gif of a huge picture": (gif(b"," + struct.pack("<HHHH", 0, 0, 65535, 65535)), "max_pixels"),
    "bitmap of a huge size": (bitmap(2**31 - 1, -(2**31), b"", bits=24, compression=0), "max_pixels"),
    "bitmap of long rows of runs": (bitmap(50_000_000, 1, b"\0\0"), "run lengths"),
    "bitmap of many runs": (bitmap(1000, 1000, b"\1\1" * 2_000_001), "run lengths"),
    "webp of a huge canvas": (
        WEBP[:21] + struct.pack("<L", 8999 << 14 | 8999) + WEBP[25:],
        "MiB",
    ),
    "tiff of many tags": (directory([(700, 7, 1000, 0)] * 5000, body=bytes(1000)), "tags"),
    "big tiff of many tags": (b"II+\0\x08\0\0\0" + struct.pack("<QQ", 16, 1 << 40) + bytes(99), "tags"),
    "tiff of many strips": (page(1, MANY, rows=1, strips=MANY, sizes=[1] * MANY, body=b"x"), "strips"),
    "tiff of many empty strips": (page(9, 9, rows=1, strips=MANY, sizes=[1] * MANY, body=b"x"), "strips"),
    "tiff of one strip's bytes": (
        page(5000, 5000, compression=8, rows=1, strips=5000, sizes=[99] * 5000, body=b"x" * 99),
        "share bytes",
    ),
    "tiff of a huge tile": (
        page(9, 9, compression=8, body=b"x" * 99, extra=((322, 4, 1, 1 << 15), (323, 4, 1, 1 << 15))).replace(
            struct.pack("<HHL", 273, 4, 1), struct.pack("<HHL", 324, 4, 1)
        ),
        "more than 840,000,000|MiB",
    ),
    "tiff of another compression": (page(9, 9, compression=34925, body=bytes(99)), "compression 34925"),
    "tiff of old jpeg": (page(9, 9, compression=6, body=bytes(99)), "compression 6"),
    "tiff of a jpeg of many scans": (page(2000, 2000, compression=7, body=SCANS), "scans"),
    "avif of many frames": (frames(20), "20 frames in one picture, more than 4"),
    "avif of many bytes": (AVIF + bytes(20_000_000), "bytes"),
    "avif of a huge size": (ispe(65535, 65535, AVIF), "cannot be decoded"),
    "avif of a large size": (ispe(9999, 9999, AVIF), "MiB"),
    "avif of a long side": (ispe(65535, 1000, AVIF), "cannot be decoded"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_costly_image_is_refused_before_it_is_decoded(name):
    data, reason = REFUSED[name]
    with memory.at_most(ROOM), pytest.raises(BadImage, match=reason):
        decode(data, Imaging())


@pytest.mark.parametrize(
    "name", [name for name in REFUSED if "of another" not in name and "old jpeg" not in name]
)
def test_a_limit_is_told_with_its_number(name):
    data, reason = REFUSED[name]
    with memory.at_most(ROOM), pytest.raises(BadImage) as refused:
        decode(data, Imaging())
    told = str(refused.value)
    assert re.search(r"more than (?:image\.max_pixels=)?\d", told) or reason in (
        "share bytes",
        "cannot be decoded",
    )


ZEROS = zlib.compress(bytes(200 << 20), 1)
SAME_TAG = directory([(0x9286, 7, 4_000_000, 0)] * 65535, body=bytes(4_000_000))
HARMLESS = {
    "png of many profiles": PNG[:33] + chunk(b"iCCP", b"i\0\0" + ZEROS) * 50 + PNG[33:],
    "png of many xmps": PNG[:33] + chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + ZEROS) * 50 + PNG[33:],
    "png of an exif that shares bytes": PNG[:33] + chunk(b"eXIf", SAME_TAG) + PNG[33:],
    "webp of an exif that shares bytes": encoded(SMALL, "WEBP", exif=b"Exif\0\0" + SAME_TAG),
    "avif of an exif that shares bytes": encoded(SMALL, "AVIF", exif=SAME_TAG),
    "jpeg of many exifs": JPEG[:2] + segment(0xE1, b"Exif\0\0" + bytes(65_000)) * 500 + JPEG[2:],
    "jpeg of large resources": (
        JPEG[:2] + segment(0xED, b"Photoshop 3.0\0" + (b"8BIM\3\xed\0\0" + bytes(4)) * 5000) * 300 + JPEG[2:]
    ),
    "jpeg filled with ff": JPEG[:2] + b"\xff" * 5_000_000 + JPEG[2:],
    "jpeg filled with zeros": JPEG[:20] + bytes(5_000_000) + JPEG[20:],
    "tiff whose pages are a circle": page(9, 9, body=bytes(81)).replace(
        bytes(4) + bytes(81), struct.pack("<L", 8) + bytes(81)
    ),
    "tiff of a large profile": page(9, 9, body=bytes(81), extra=((34675, 7, 70, 150),)),
    "gif of many frames": encoded(
        SMALL.convert("P"), "GIF", save_all=True, append_images=[picture(n).convert("P") for n in range(99)]
    ),
    "avif of many frames": encoded(
        SMALL, "AVIF", save_all=True, append_images=[picture(n) for n in range(30)], speed=10
    ),
    "bitmap of jumps": bitmap(1500, 1500, b"\0\2\xff\xff" * 1000),
}


@pytest.mark.parametrize("name", HARMLESS)
def test_metadata_and_frames_cost_nothing(name):
    with memory.at_most(ROOM):
        assert decode(HARMLESS[name], Imaging())[0].mode == "RGB"


def test_a_directory_may_not_overlap_what_it_names():
    """It is rewritten, and the numbers in it would be others than those that were checked."""
    data = page(9, 9, body=bytes(81))
    for start in (0, 4, 7):
        with pytest.raises(BadImage, match="header"):
            decode(data[:4] + struct.pack("<L", start) + data[8:], Imaging())
    sizes = struct.pack("<HHL", 279, 4, 1)
    at = data.index(sizes)
    with pytest.raises(BadImage, match="directory"):
        decode(data[:at] + struct.pack("<HHLL", 279, 4, 3, 20) + data[at + 12 :], Imaging())


@pytest.mark.parametrize(
    ("mode", "kind", "options"),
    [
        ("RGB", "PNG", {"compress_level": 1}),
        ("L", "JPEG", {"quality": 50}),
        ("1", "TIFF", {"compression": "group4"}),
        ("P", "GIF", {}),
    ],
    ids=["png", "jpeg", "tiff", "gif"],
)
@pytest.mark.slow
def test_a_hundred_megapixels_are_read(mode, kind, options):
    data = encoded(Image.new(mode, (10_000, 10_000)), kind, **options)
    assert decode(data, Imaging())[0].size == (10_000, 10_000)
