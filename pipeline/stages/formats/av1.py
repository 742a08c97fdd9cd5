"""Counts the AV1 frames of an AVIF's pictures before they are decoded.

A decoder works through all frames of a picture, and shows only one.
"""

import struct
from collections.abc import Iterator

from pipeline.stages.formats.opening import Data, damaged, require_parts

_FRAMES = (3, 6)  # types of open bitstream units: a frame's header alone, and a whole frame
_Box = tuple[bytes, int, int]  # its type, and where its content begins and ends
_FULL = 4  # version and flags of a box
_HOLDERS = (b"moov", b"trak", b"mdia", b"minf", b"stbl")


def count_frames(data: Data) -> int:
    """Return the most frames of any picture in the file, or of the first sample of any track.

    Raises:
        BadImage: the boxes are damaged, or pictures share bytes.
    """
    try:
        return max(_frames(data, extents) for extents in [*_items(data), *_first_samples(data), []])
    except (struct.error, IndexError):
        raise damaged("its boxes are damaged") from None


def _boxes(data: Data, start: int, stop: int) -> Iterator[_Box]:
    parts = 0
    while start + 8 <= stop:
        require_parts(parts := parts + 1, "boxes")
        size, kind = struct.unpack_from(">L4s", data, start)
        head = 8
        if size == 1:
            (size,), head = struct.unpack_from(">Q", data, start + 8), 16
        end = start + size if size else stop
        if end < start + head:
            return
        yield kind, start + head, min(end, stop)
        start = end


def _items(data: Data) -> list[list[tuple[int, int]]]:
    """List the extents, begin and end, of each item that is coded in AV1."""
    found: list[list[tuple[int, int]]] = []
    for kind, start, stop in _boxes(data, 0, len(data)):
        if kind == b"meta":
            inner = {name: (first, last) for name, first, last in _boxes(data, start + _FULL, stop)}
            coded = _coded(data, inner.get(b"iinf", (0, 0)))
            inside = inner.get(b"idat", (0, 0))[0]
            places = _places(data, inner[b"iloc"][0], inside) if b"iloc" in inner else ()
            found += [extents for number, extents in places if number in coded]
    if sum(stop - start for extents in found for start, stop in extents) > len(data):
        raise damaged("its pictures share bytes")
    return found


def _coded(data: Data, place: tuple[int, int]) -> set[int]:
    """List the numbers of the items of type av01."""
    numbers = set()
    start, stop = place
    skip = _FULL + (4 if stop and data[start] else 2)
    for _, first, _ in _boxes(data, start + skip, stop):
        long = data[first] >= 3
        number, kind = struct.unpack_from(">L2x4s" if long else ">H2x4s", data, first + _FULL)
        if kind == b"av01":
            numbers.add(number)
    return numbers


def _places(data: Data, at: int, inside: int) -> Iterator[tuple[int, list[tuple[int, int]]]]:
    """Yield each item's number and extents from a box `iloc`; `inside` is where the box `idat` begins."""

    def number(size: int) -> int:
        nonlocal at
        at += size
        if at > len(data):
            raise IndexError
        return int.from_bytes(data[at - size : at], "big")

    version = number(_FULL) >> 24
    sizes = number(2)
    of_offset, of_length, of_base, of_index = (sizes >> shift & 15 for shift in (12, 8, 4, 0))
    wide = 4 if version == 2 else 2
    parts = 0
    for _ in range(number(wide)):
        item = number(wide)
        method = number(2) & 15 if version else 0
        number(2)
        base = number(of_base) + (inside if method == 1 else 0)
        extents = []
        for _ in range(number(2)):
            require_parts(parts := parts + 1, "extents")
            number(of_index if version else 0)
            start = base + number(of_offset)
            length = number(of_length)
            extents.append((start, min(len(data), start + length) if length else len(data)))
        if method > 1:
            raise damaged("a picture is made of another's bytes")
        yield item, extents


def _first_samples(data: Data) -> Iterator[list[tuple[int, int]]]:
    """Yield where the first sample of each track begins and ends."""
    levels = [(0, len(data))]
    parts = 0
    while levels:
        start, stop = levels.pop()
        tables: dict[bytes, int] = {}
        for kind, first, last in _boxes(data, start, stop):
            require_parts(parts := parts + 1, "boxes")
            if kind in _HOLDERS:
                levels.append((first, last))
            tables[kind] = first + _FULL
        offsets = tables.get(b"stco", tables.get(b"co64"))
        if offsets is not None and b"stsz" in tables:
            (begin,) = struct.unpack_from(">L" if b"stco" in tables else ">Q", data, offsets + 4)
            same, _, size = struct.unpack_from(">LLL", data, tables[b"stsz"])
            yield [(begin, min(len(data), begin + (same or size)))]


def _frames(data: Data, extents: list[tuple[int, int]]) -> int:
    """Count the frames among the bitstream units of a picture."""
    coded = b"".join(data[start:stop] for start, stop in extents)
    at = frames = parts = 0
    while at < len(coded):
        require_parts(parts := parts + 1, "parts")
        head, at = coded[at], at + 1
        frames += (head >> 3 & 15) in _FRAMES
        at += head >> 2 & 1
        if not head & 2:  # without a size: up to the end
            break
        size = shift = 0
        while True:
            byte, at = coded[at], at + 1
            size |= (byte & 127) << shift
            shift += 7
            if byte < 128 or shift > 56:
                break
        at += size
    return frames
