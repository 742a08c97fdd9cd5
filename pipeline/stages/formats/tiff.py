"""Bounds TIFF files: leaves what the first page's pixels need, and counts their cost."""

import struct
from dataclasses import dataclass

from PIL.TiffImagePlugin import (
    BITSPERSAMPLE,
    COLORMAP,
    COMPRESSION,
    EXTRASAMPLES,
    FILLORDER,
    IMAGELENGTH,
    IMAGEWIDTH,
    JPEGTABLES,
    PHOTOMETRIC_INTERPRETATION,
    PLANAR_CONFIGURATION,
    PREDICTOR,
    REFERENCEBLACKWHITE,
    ROWSPERSTRIP,
    SAMPLEFORMAT,
    SAMPLESPERPIXEL,
    STRIPBYTECOUNTS,
    STRIPOFFSETS,
    TILEBYTECOUNTS,
    TILELENGTH,
    TILEOFFSETS,
    TILEWIDTH,
    XMP,
    YCBCRSUBSAMPLING,
)

from pipeline.stages.formats.jpeg import most_samples
from pipeline.stages.formats.opening import Data, Opening, damaged, require_parts, require_size
from pipeline.stages.formats.orientation import SIZES, WHOLE, either
from pipeline.support.errors import BadImage

_ORIENTATION, _T4_OPTIONS, _T6_OPTIONS, _INK_SET = 274, 292, 293, 332
_YCBCR_COEFFICIENTS, _YCBCR_POSITIONING = 529, 531
# Sizes, bits, colours, strips, tiles, and what the compressions below need.
_NEEDED = frozenset(
    [
        *(IMAGEWIDTH, IMAGELENGTH, BITSPERSAMPLE, COMPRESSION, PHOTOMETRIC_INTERPRETATION, FILLORDER),
        *(STRIPOFFSETS, SAMPLESPERPIXEL, ROWSPERSTRIP, STRIPBYTECOUNTS, PLANAR_CONFIGURATION),
        *(_T4_OPTIONS, _T6_OPTIONS, PREDICTOR, COLORMAP, TILEWIDTH, TILELENGTH, TILEOFFSETS, TILEBYTECOUNTS),
        *(_INK_SET, EXTRASAMPLES, SAMPLEFORMAT, JPEGTABLES),
        *(_YCBCR_COEFFICIENTS, YCBCRSUBSAMPLING, _YCBCR_POSITIONING, REFERENCEBLACKWHITE),
    ]
)
_NONE, _JPEG = 1, 7
_COMPRESSIONS = {
    **{_NONE: "none", 2: "CCITT", 3: "CCITT fax 3", 4: "CCITT fax 4", 5: "LZW", _JPEG: "JPEG"},
    **{8: "deflate", 32773: "PackBits", 32946: "deflate", 50000: "Zstandard"},
}
_NUMBERS = {1: "B", 2: "B", 7: "B", **WHOLE}
_MOST_ENTRIES = 4096
_MOST_SAMPLES = 6  # of a pixel; Pillow's limit
_MOST_DECODED = 840_000_000  # bytes of all strips or tiles


@dataclass(frozen=True)
class _Form:
    """Describes the structs of a file: byte order, and 32 or 64 bits of offsets."""

    order: str
    big: bool

    @property
    def entry(self) -> str:
        return self.order + ("HHQ8s" if self.big else "HHL4s")

    @property
    def offset(self) -> str:
        return self.order + ("Q" if self.big else "L")

    @property
    def count(self) -> str:
        return self.order + ("Q" if self.big else "H")


@dataclass(frozen=True)
class _Page:
    """Holds the first page's directory: its place, and its entries by their tags."""

    data: Data
    form: _Form
    start: int
    stop: int
    entries: dict[int, tuple[int, int, bytes]]

    def numbers(self, tag: int, default: tuple[int, ...] = ()) -> tuple[int, ...]:
        """Return the whole numbers of an entry."""
        if tag not in self.entries:
            return default
        kind, count, _ = self.entries[tag]
        if kind not in _NUMBERS:
            raise damaged(f"tag {tag} holds no whole numbers")
        require_parts(count, "strips or tiles")
        return struct.unpack(f"{self.form.order}{count}{_NUMBERS[kind]}", self.content(tag))

    def number(self, tag: int, default: int) -> int:
        """Return the first number of an entry."""
        return next(iter(self.numbers(tag)), default)

    def content(self, tag: int) -> Data:
        """Return the bytes of an entry's values, which may not lie in the directory: it is rewritten."""
        kind, count, value = self.entries[tag]
        size = count * SIZES[kind]
        if size <= len(value):
            return memoryview(value)[:size]
        (at,) = struct.unpack(self.form.offset, value)
        if at + size > len(self.data) or (at < self.stop and at + size > self.start):
            raise damaged(f"tag {tag} lies in its directory, or beyond its end")
        return self.data[at : at + size]


def open_tiff(data: Data, max_pixels: int) -> Opening:
    """Read the directory of a TIFF's first page, and leave in it what the pixels need.

    Raises:
        BadImage: the page is damaged, or costly to decode, or its compression is not read.
    """
    page = _first_page(data)
    width, height = page.number(IMAGEWIDTH, 0), page.number(IMAGELENGTH, 0)
    require_size(width, height, max_pixels)
    bits = page.number(BITSPERSAMPLE, 1)
    return Opening(
        data=_rewritten(page),
        plugins=("TIFF",),
        orientation=_orientation(page),
        scratch=_scratch(page, width, height),
        bits=bits if bits in (10, 12, 14) else None,
    )


def _first_page(data: Data) -> _Page:
    order = "<" if bytes(data[:2]) == b"II" else ">"
    form = _Form(order, 43 in (data[2], data[3]))
    try:
        (start,) = struct.unpack_from(form.offset, data, 8 if form.big else 4)
        if start < (16 if form.big else 8):
            raise damaged("its directory lies in its header")
        (count,) = struct.unpack_from(form.count, data, start)
        if count > _MOST_ENTRIES:
            raise BadImage(f"the image has {count:,} tags, more than {_MOST_ENTRIES:,}")
        first = start + struct.calcsize(form.count)
        size = struct.calcsize(form.entry)
        entries: dict[int, tuple[int, int, bytes]] = {}
        for at in range(first, first + count * size, size):
            tag, kind, number, value = struct.unpack_from(form.entry, data, at)
            if kind in SIZES:
                entries.setdefault(tag, (kind, number, value))
    except struct.error:
        raise damaged("it is truncated before its directory") from None
    return _Page(data, form, start, first + count * size + struct.calcsize(form.offset), entries)


def _rewritten(page: _Page) -> bytes:
    """Return the file with a directory of the needed tags, without further pages."""
    kept = sorted((tag, *entry) for tag, entry in page.entries.items() if tag in _NEEDED)
    entries = [struct.pack(page.form.entry, *entry) for entry in kept]
    directory = b"".join(
        [struct.pack(page.form.count, len(kept)), *entries, struct.pack(page.form.offset, 0)]
    )
    for tag, *_ in kept:
        page.content(tag)  # within the file
    return b"".join([page.data[: page.start], directory, page.data[page.start + len(directory) :]])


def _orientation(page: _Page) -> int | None:
    found = page.numbers(_ORIENTATION) if _ORIENTATION in page.entries else ()
    return found[0] if found else either(None, page.content(XMP) if XMP in page.entries else None)


def _scratch(page: _Page, width: int, height: int) -> int:
    """Refuse parts that are costly to decode; return the bytes that the largest takes beside the picture."""
    compression = page.number(COMPRESSION, _NONE)
    if compression not in _COMPRESSIONS:
        raise BadImage(f"the image is a TIFF of compression {compression}, which is not read")
    samples = page.number(SAMPLESPERPIXEL, 1)
    bits = page.numbers(BITSPERSAMPLE, (1,))
    if not 0 < samples <= _MOST_SAMPLES or width < 1 or height < 1:
        raise damaged("its size or number of samples is no picture's")
    tiled = TILEOFFSETS in page.entries and STRIPOFFSETS not in page.entries
    across = page.number(TILEWIDTH, 0) if tiled else width
    down = page.number(TILELENGTH, 0) if tiled else min(height, page.number(ROWSPERSTRIP, height))
    if across < 1 or down < 1:
        raise damaged("its strips or tiles have no size")
    planes = samples if page.number(PLANAR_CONFIGURATION, 1) == 2 else 1
    parts = -(-width // across) * -(-height // down) * planes
    require_parts(
        max(parts, len(page.numbers(TILEOFFSETS if tiled else STRIPOFFSETS))),
        "strips or tiles",
    )
    row = -(-across * max(bits, default=1) * samples // planes // 8)
    if parts * row * down > _MOST_DECODED:
        raise BadImage(
            f"the image has {width} x {height} pixels of {parts * row * down:,} bytes, "
            f"more than {_MOST_DECODED:,}"
        )
    if compression == _NONE:
        return 0
    _require_apart(page, tiled, parts, (across * down * samples // planes) if compression == _JPEG else 0)
    as_rgba = 4 * across * down  # libtiff converts some colours itself
    coefficients = 2 * samples * across * down if compression == _JPEG else 0
    return max(row * down, as_rgba) + coefficients


def _require_apart(page: _Page, tiled: bool, parts: int, jpeg_samples: int) -> None:
    """Refuse compressed parts that share bytes, which a small file could have thousands of.

    Args:
        jpeg_samples: of each part, if it is a JPEG: each of its scans is a pass over them.
    """
    starts = page.numbers(TILEOFFSETS if tiled else STRIPOFFSETS)
    sizes = page.numbers(TILEBYTECOUNTS if tiled else STRIPBYTECOUNTS)
    if parts > 1 and (len(sizes) < parts or sum(sizes) > len(page.data)):
        raise BadImage("the image has strips or tiles that share bytes, or do not say how many they have")
    if not jpeg_samples:
        return
    whole = bytes(page.data)
    ends = [start + size for start, size in zip(starts, sizes, strict=False)] if parts > 1 else [len(whole)]
    scans = sum(max(1, whole.count(b"\xff\xda", *both)) for both in zip(starts, ends, strict=False))
    most = most_samples(len(whole) if scans > parts else 0)
    if scans * jpeg_samples > most:
        raise BadImage(
            f"the image decodes {scans * jpeg_samples:,} samples in {scans} scans of its strips or tiles, "
            f"more than {most:,}"
        )
