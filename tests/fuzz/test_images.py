"""Any image bytes give a picture or one `bad_image` row in time, without losing neighbours."""

import struct
import zlib

from hypothesis import given
from hypothesis import strategies as st

from pipeline.sources.webdataset import WebDataset
from tests.fuzz.damage import EXTREMES, damaged
from tests.fuzz.harness import cases, run
from tests.support.corpus import encoded, images, picture
from tests.support.tars import jpeg, write_members

SOUND = [case.image for case in images(0) if case.statuses == ("ok",) and len(case.image) < 20_000]
ASK = b'{"question": "what?"}'
CHUNKS = b"IHDR PLTE tRNS iCCP eXIf tEXt zTXt iTXt acTL fcTL fdAT gAMA cHRM sRGB pHYs IDAT IEND xxxx"
NUMBERS = st.one_of(st.sampled_from(EXTREMES), st.integers(0, 300))


def require_rows(data: bytes, folder) -> str:
    """Check that both neighbours are ok, and return the status of the image's row."""
    members = [
        (f"{key}.{suffix}", part)
        for key, image in (("a", jpeg(0)), ("b", data), ("c", jpeg(1)))
        for suffix, part in (("jpg", image), ("json", ASK))
    ]
    write_members(folder / "images.tar", members)
    rows = run(WebDataset(path=str(folder / "images.tar")), folder)
    assert [row["sample_key"] for row in rows] == ["a", "b", "c"]
    assert [rows[0]["status"], rows[2]["status"]] == ["ok", "ok"]
    assert rows[1]["status"] in ("ok", "bad_image")
    return rows[1]["status"]


@cases(60)
@given(damaged(st.sampled_from(SOUND)))
def test_damaged_images(folder, data):
    require_rows(data, folder)


@cases(30)
@given(
    st.sampled_from(
        [
            *(b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"RIFF\x40\0\0\0WEBP", b"GIF89a", b"BM"),
            *(b"(\0\0\0", b"II*\0\x08\0\0\0", b"MM\0*\0\0\0\x08", b"II+\0\x08\0\0\0\x10" + bytes(7)),
            b"\0\0\0\x1cftypavif",
        ]
    ),
    st.binary(max_size=300),
)
def test_random_bytes(folder, magic, data):
    require_rows(magic + data, folder)


@st.composite
def exifs(draw: st.DrawFn) -> bytes:
    """Draw a TIFF directory of random entries, most of them inconsistent."""
    order = draw(st.sampled_from("<>"))
    tags = st.sampled_from([0x0112, 0x8769, 0x8825, 0xA005, 0x010F, 0x011A, 0x927C, 0x02BC, 0x9286])
    entry = st.tuples(st.one_of(tags, st.integers(0, 0xFFFF)), st.integers(0, 20), NUMBERS, NUMBERS)
    entries = draw(st.lists(entry, max_size=8))
    offset = draw(st.sampled_from([8, 8, 8, 0, 1 << 31]))
    head = (b"II" if order == "<" else b"MM") + struct.pack(order + "HIH", 42, offset, len(entries))
    packed = [struct.pack(order + "HHII", *values) for values in entries]
    return b"Exif\0\0" + head + b"".join(packed) + draw(st.binary(max_size=60))


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


@st.composite
def png_chunks(draw: st.DrawFn) -> bytes:
    """Draw a PNG chunk with a valid checksum and arbitrary content, so that decoders parse it."""
    kind = draw(st.sampled_from(CHUNKS.split()))
    text = st.builds(
        lambda key, middle, inside: key + b"\0" + middle + zlib.compress(inside),
        st.sampled_from([b"Comment", b"XML:com.adobe.xmp", b"Raw profile type exif", b"icc"]),
        st.sampled_from([b"", b"\0", b"\1\0\0\0", b"\0\0\0"]),
        st.one_of(
            st.binary(max_size=50), exifs(), st.just(b'<x tiff:Orientation="6"/>'), st.just(bytes(1 << 21))
        ),
    )
    numbers = st.lists(NUMBERS, max_size=8).map(
        lambda values: b"".join(struct.pack(">I", value) for value in values)
    )
    header = st.builds(
        lambda width, height, rest: struct.pack(">II", width, height) + bytes(rest),
        NUMBERS,
        NUMBERS,
        st.tuples(*[st.sampled_from([0, 1, 2, 3, 4, 6, 8, 16])] * 5),
    )
    data = draw(st.one_of(st.binary(max_size=60), text, numbers, header, exifs().map(lambda exif: exif[6:])))
    return png_chunk(kind, data)


@cases(40)
@given(st.lists(png_chunks(), min_size=1, max_size=5), st.booleans())
def test_png_chunks(folder, chunks, behind):
    """Random chunks before or behind the pixels of a sound picture."""
    sound = encoded(picture(1), "PNG")
    at = len(sound) - 12 if behind else 33
    require_rows(sound[:at] + b"".join(chunks) + sound[at:], folder)


@cases(20)
@given(st.lists(png_chunks(), min_size=1, max_size=6))
def test_png_of_random_chunks_alone(folder, chunks):
    require_rows(b"\x89PNG\r\n\x1a\n" + b"".join(chunks), folder)


@st.composite
def jpeg_segments(draw: st.DrawFn) -> bytes:
    marker = draw(
        st.one_of(
            st.sampled_from([0xE0, 0xE1, 0xE2, 0xED, 0xEE, 0xFE, 0xDB, 0xC0, 0xC2, 0xC4, 0xDD]),
            st.integers(0, 255),
        )
    )
    named = st.builds(
        bytes.__add__,
        st.sampled_from(
            [
                b"JFIF\0",
                b"ICC_PROFILE\0",
                b"MPF\0",
                b"Adobe\0",
                b"Photoshop 3.0\0",
                b"http://ns.adobe.com/xap/1.0/\0",
            ]
        ),
        st.one_of(st.binary(max_size=60), exifs().map(lambda exif: exif[6:])),
    )
    frame = st.builds(
        lambda height, width: (
            b"\x08" + struct.pack(">HH", height, width) + b"\x03\x01\x22\0\x02\x11\1\x03\x11\1"
        ),
        *[NUMBERS.map(lambda number: number % 0x10000)] * 2,
    )
    data = draw(st.one_of(exifs(), named, frame, st.binary(max_size=60)))
    length = draw(st.one_of(st.just(len(data) + 2), NUMBERS)) % 0x10000
    return b"\xff" + bytes([marker]) + struct.pack(">H", length) + data


@cases(40)
@given(st.lists(jpeg_segments(), min_size=1, max_size=5))
def test_jpeg_segments(folder, segments):
    """EXIF, profiles, further pictures and second frames before the segments of a sound picture."""
    require_rows(SOUND[0][:2] + b"".join(segments) + SOUND[0][2:], folder)


@st.composite
def webp_chunks(draw: st.DrawFn) -> bytes:
    kind = draw(
        st.sampled_from(
            [b"VP8X", b"ANIM", b"ANMF", b"ALPH", b"EXIF", b"XMP ", b"ICCP", b"VP8 ", b"VP8L", b"xxxx"]
        )
    )
    data = draw(
        st.one_of(
            st.binary(max_size=60),
            exifs(),
            st.binary(min_size=10, max_size=10),
            st.just(b"\x10\0\0\0" + b"\xff" * 6),
        )
    )
    return (
        kind
        + struct.pack("<I", draw(st.one_of(st.just(len(data)), NUMBERS)))
        + data
        + b"\0" * (len(data) % 2)
    )


@cases(30)
@given(st.lists(webp_chunks(), min_size=1, max_size=5), st.booleans())
def test_webp_chunks(folder, chunks, behind):
    sound = encoded(picture(1), "WEBP")[12:]
    body = sound + b"".join(chunks) if behind else b"".join(chunks) + sound
    require_rows(b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body, folder)


@st.composite
def gif_blocks(draw: st.DrawFn) -> bytes:
    """Draw an extension, a picture or junk, with blocks of any lengths."""
    blocks = b"".join(
        bytes([len(part)]) + part for part in draw(st.lists(st.binary(max_size=40), max_size=4))
    )
    place = struct.pack("<HHHH", *(draw(NUMBERS) % 0x10000 for _ in range(4)))
    extension = st.sampled_from([0xF9, 0xFE, 0xFF, 0x01]).map(lambda kind: b"!" + bytes([kind]) + blocks)
    flags = st.tuples(st.sampled_from([0, 0x40, 0x80, 0xC0, 0x87]), st.integers(0, 12)).map(bytes)
    pictures = flags.map(lambda both: b"," + place + both + blocks)
    return draw(st.one_of(extension, pictures, st.binary(max_size=9))) + draw(st.sampled_from([b"\0", b""]))


@cases(30)
@given(st.lists(gif_blocks(), min_size=1, max_size=5), st.tuples(NUMBERS, NUMBERS), st.booleans())
def test_gif_blocks(folder, blocks, size, sized):
    """Extensions and pictures before the picture of a sound GIF, whose screen may have any size."""
    sound = encoded(picture(1), "GIF")
    at = 13 + (3 << (sound[10] & 7) + 1)
    screen = struct.pack("<HH", *(side % 0x10000 for side in size)) if sized else sound[6:10]
    require_rows(sound[:6] + screen + sound[10:at] + b"".join(blocks) + sound[at:], folder)


@st.composite
def bitmaps(draw: st.DrawFn) -> bytes:
    """Draw a BMP or DIB of any size, depth and compression, with runs, jumps and pixels behind it."""
    header = draw(st.sampled_from([12, 40, 52, 56, 64, 108, 124]))
    width, height = (draw(st.one_of(st.integers(1, 40), NUMBERS)) % (1 << 32) for _ in range(2))
    bits = draw(st.sampled_from([0, 1, 4, 8, 16, 24, 32, 64]))
    if header == 12:
        info = struct.pack("<LHHHH", 12, width % 0x10000, height % 0x10000, 1, bits)
    else:
        kind, colors = draw(st.sampled_from([0, 1, 2, 3, 4, 5, 9])), draw(NUMBERS)
        info = struct.pack("<LLLHHLLLLLL", header, width, height, 1, bits, kind, 0, 0, 0, colors, 0)
        info = info.ljust(header, draw(st.sampled_from([b"\0", b"\xff"])))
    run = st.one_of(
        st.binary(min_size=2, max_size=2), st.just(b"\0\0"), st.just(b"\0\2\xff\xff"), st.just(b"\0\3")
    )
    body = draw(st.one_of(st.binary(max_size=400), st.lists(run, max_size=60).map(b"".join)))
    start = draw(st.sampled_from([14 + header, 14 + header + 1024, 0, 1 << 31]))
    file = b"BM" + struct.pack("<LHHL", 0, 0, 0, start)
    return (file if draw(st.booleans()) else b"") + info + draw(st.sampled_from([b"", bytes(1024)])) + body


@cases(40)
@given(bitmaps())
def test_bitmaps(folder, data):
    require_rows(data, folder)


TAGS = [256, 257, 258, 259, 262, 266, 273, 274, 277, 278, 279, 284, 317, 320, 322, 323, 324, 325, 338, 339]
TAGS += [330, 347, 529, 530, 532, 700, 34665, 34675, 34853]


@st.composite
def tiffs(draw: st.DrawFn) -> bytes:
    """Draw a TIFF whose directory is near to that of a picture of 8 x 8 pixels, with some entries changed."""
    order = draw(st.sampled_from("<>"))
    sound = {256: 8, 257: 8, 258: 8, 259: 1, 262: 1, 273: 400, 277: 1, 278: 8, 279: 64}
    entries = {tag: (3, 1, value) for tag, value in sound.items()}
    entries[259] = (
        3,
        1,
        draw(st.sampled_from([1, 1, 2, 3, 4, 5, 6, 7, 8, 32773, 32946, 34925, 50000, 50001])),
    )
    entries[262] = (3, 1, draw(st.sampled_from([0, 1, 2, 3, 5, 6, 8])))
    number = st.one_of(st.integers(0, 8), NUMBERS)
    changed = st.tuples(st.sampled_from(TAGS), st.integers(0, 18), number, number)
    for tag, kind, count, value in draw(st.lists(changed, max_size=4)):
        entries[tag] = (kind, count, value)
    packed = b""
    for tag, (kind, count, value) in sorted(entries.items()):
        form = "HH" if kind == 3 else "L"
        fields = (value % 0x10000, 0) if kind == 3 else (value % (1 << 32),)
        packed += struct.pack(f"{order}HHL{form}", tag, kind, count % (1 << 32), *fields)
    pages = struct.pack(f"{order}L", draw(st.sampled_from([0, 8, 1 << 31])))
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}LH", 8, len(entries))
    body = draw(
        st.one_of(st.just(bytes(500)), st.binary(max_size=500), st.just(zlib.compress(bytes(1 << 20))))
    )
    return (head + packed + pages).ljust(400, b"\1") + body


@cases(60)
@given(tiffs())
def test_tiffs(folder, data):
    require_rows(data, folder)


AVIFS = [encoded(picture(1), "AVIF"), encoded(picture(1).convert("RGBA"), "AVIF")]
AVIFS.append(encoded(picture(1), "AVIF", save_all=True, append_images=[picture(2)]))
BOXES = b"meta pitm iloc iinf infe iprp ipco ispe pixi av1C ipma mdat colr irot imir auxC".split()
BOXES += b"moov trak stsz stco".split()


@st.composite
def avif_boxes(draw: st.DrawFn) -> bytes:
    """Draw an AVIF with a box's first numbers changed: sizes, counts, places, types."""
    data = draw(st.sampled_from(AVIFS))
    for name in draw(st.lists(st.sampled_from(BOXES), min_size=1, max_size=3)):
        if (at := data.find(name)) >= 0:
            at += draw(st.sampled_from([-4, 4, 5, 6, 8, 12, 16]))
            number = draw(NUMBERS).to_bytes(8, "big")[-draw(st.sampled_from([1, 2, 4])) :]
            data = data[:at] + number + data[at + len(number) :]
    return data


@cases(60)
@given(avif_boxes())
def test_avif_boxes(folder, data):
    require_rows(data, folder)
