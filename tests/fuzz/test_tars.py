"""Any tar bytes give rows for the readable samples and a shard error for the rest."""

import io
import json
import tarfile

from hypothesis import given
from hypothesis import strategies as st

from pipeline.sources.webdataset import WebDataset
from tests.fuzz.damage import EXTREMES, damaged
from tests.fuzz.harness import cases, run
from tests.support.measured import MIB
from tests.support.tars import add, jpeg

ASK = json.dumps({"question": "what?"}).encode()
FORMATS = (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)
KINDS = [bytes([code]) for code in (*b"01234567LKxgXSDNV", 0, 255)]
NAMES = st.one_of(
    st.sampled_from(
        ["a.jpg", "a.json", "a.txt", "b/c.d.png", "b\n.jpg", ".jpg", "a.", "/", "../a.jpg", "a.JPG", "é.jpg"]
    ),
    st.builds(
        lambda stem, count: stem * count + ".jpg", st.sampled_from(["x", "é", "y/"]), st.integers(1, 120)
    ),
    st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20).map(
        lambda stem: stem + ".jpg"
    ),
)
PAX = st.dictionaries(
    st.sampled_from(
        [
            "path",
            "size",
            "hdrcharset",
            "mtime",
            "GNU.sparse.major",
            "GNU.sparse.minor",
            "GNU.sparse.map",
            "GNU.sparse.size",
            "GNU.sparse.realsize",
            "GNU.sparse.name",
            "GNU.sparse.offset",
            "GNU.sparse.numbytes",
        ]
    ),
    st.one_of(
        st.sampled_from(
            ["0", "1", "-1", "-512", "1e9", "x", "0,512", "0,x", "99999999999999999999", "BINARY", "a.jpg"]
        ),
        st.integers(0, 1 << 40).map(str),
    ),
    max_size=5,
)


def tar_of(members: list[tuple[str, bytes]], kind: int) -> bytes:
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w", format=kind) as tar:
        for name, data in members:
            add(tar, name, data)
    return sink.getvalue()


def sound(count: int, kind: int, stem: str = "") -> bytes:
    parts = (
        (f"{stem}{index}.{suffix}", data)
        for index in range(count)
        for suffix, data in (("jpg", jpeg(index, 16, 16)), ("json", ASK))
    )
    return tar_of(list(parts), kind)


SOUND = [
    sound(count, kind, stem)
    for kind in FORMATS
    for count, stem in ((1, ""), (4, "é" * 70), (3, "d/" * 60))
    if kind != tarfile.USTAR_FORMAT or count == 1
]


def rows_of(data: bytes, folder):
    (folder / "fuzz.tar").write_bytes(data)
    return run(WebDataset(path=str(folder / "fuzz.tar")), folder, room=96 * MIB)


@cases(80)
@given(damaged(st.sampled_from(SOUND)))
def test_damaged_tars(folder, data):
    rows_of(data, folder)


def fixed(data: bytes, at: int) -> bytes:
    """Return the tar with a valid checksum in the header at offset `at`."""
    header = data[at : at + 512]
    total = sum(header[:148]) + 8 * 32 + sum(header[156:])
    return data[: at + 148] + b"%06o\0 " % total + data[at + 156 :]


@st.composite
def headers(draw: st.DrawFn) -> bytes:
    """Draw a header of arbitrary fields with a valid checksum, and some content."""
    number = st.one_of(
        st.sampled_from(EXTREMES).map(lambda value: b"%011o\0" % value),
        st.integers(0, 2000).map(lambda value: b"%011o\0" % value),
        st.binary(min_size=12, max_size=12),
        st.sampled_from(
            [
                b"\x80" + b"\xff" * 11,
                b"\xff" * 12,
                b"\xff" * 11 + b"\0",
                b"-0000000001\0",
                b"\x80" + bytes(10) + b"\x05",
            ]
        ),
    )
    name = draw(NAMES).encode()[:100].ljust(100, b"\0")
    rest = draw(st.one_of(st.just(bytes(255)), st.binary(max_size=255))).ljust(255, b"\0")
    magic = draw(st.sampled_from([b"ustar\0" + b"00", b"ustar  \0", bytes(8)]))
    head = (
        name
        + b"0000644\0" * 3
        + draw(number)
        + b"00000000000\0"
        + bytes(8)
        + draw(st.sampled_from(KINDS))
        + bytes(100)
        + magic
    )
    content = draw(st.one_of(st.binary(max_size=80), st.just(jpeg(3, 16, 16)), PAX.map(pax_records)))
    return fixed((head + rest)[:512].ljust(512, b"\0"), 0) + content + bytes(-len(content) % 512)


def pax_records(pairs: dict[str, str]) -> bytes:
    records = b""
    for key, value in pairs.items():
        text = f" {key}={value}\n".encode()
        size = len(text) + len(str(len(text)))
        size = len(text) + len(str(size))
        records += str(size).encode() + text
    return records


@cases(80)
@given(st.lists(headers(), min_size=1, max_size=5), st.booleans())
def test_any_headers(folder, blocks, neighbour):
    data = b"".join(blocks)
    rows_of((SOUND[0][:2048] if neighbour else b"") + data + SOUND[0], folder)


@cases(40)
@given(
    st.lists(st.tuples(NAMES, PAX, st.sampled_from(KINDS)), min_size=1, max_size=4),
    st.sampled_from(FORMATS[1:]),
)
def test_odd_names_and_extended_headers(folder, members, kind):
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w", format=kind) as tar:
        for name, pax, code in members:
            info = tarfile.TarInfo(name)
            info.size, info.type, info.pax_headers = (
                700,
                code,
                {key: value for key, value in pax.items() if key != "path"},
            )
            tar.addfile(info, io.BytesIO(jpeg(1, 16, 16).ljust(700, b"\0")))
    rows_of(sink.getvalue(), folder)
