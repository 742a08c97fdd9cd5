"""Reads a picture's orientation from EXIF or XMP, in bounded time.

Pillow reads every entry of an EXIF directory with its data. Thousands of entries that share megabytes take it
minutes, so that only the one entry wanted here is read.
"""

import re
import struct
from collections.abc import Mapping
from typing import Any

from pipeline.stages.formats.opening import Data

_TAG = 0x0112
# The bytes of each type that TIFF has, and the types of whole numbers.
SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8}
WHOLE = {3: "H", 4: "L", 6: "b", 8: "h", 9: "l", 13: "L", 16: "Q"}
_PREFIXES = {b"II*\0": "<", b"MM\0*": ">", b"II\0*": "<", b"MM*\0": ">"}
_XMP = re.compile(rb'tiff:Orientation(?:="|>)([0-9])')
_HEAD = re.compile(rb"^(?:Exif\0\0){1,2}")


def orientation_of(info: Mapping[str | tuple[int, int], Any]) -> int | None:
    """Return the orientation that Pillow's `info` of an opened image holds, in EXIF or else in XMP."""
    exif, xmp = (
        memoryview(value) if isinstance(value := info.get(key), bytes) else None for key in ("exif", "xmp")
    )
    return either(exif, xmp)


def either(exif: Data | None, xmp: Data | None) -> int | None:
    """Return the orientation of EXIF, or that of XMP if EXIF has none."""
    found = of_exif(exif) if exif else None
    if found is None and xmp and (match := _XMP.search(xmp)):
        found = int(match[1])
    return found


def of_exif(exif: Data) -> int | None:
    """Return the orientation in the first directory of an EXIF block; None if it has none or is damaged.

    As Pillow does, it passes over entries of more bytes than the block has, and ends at one beyond its end.
    """
    if head := _HEAD.match(exif):
        exif = exif[head.end() :]
    order = _PREFIXES.get(bytes(exif[:4]))
    if order is None:
        return None
    try:
        (at,) = struct.unpack_from(f"{order}L", exif, 4)
        (count,) = struct.unpack_from(f"{order}H", exif, at)
        left = len(exif)
        for entry in range(at + 2, at + 2 + 12 * count, 12):
            tag, kind, values = struct.unpack_from(f"{order}HHL", exif, entry)
            size, place = values * SIZES.get(kind, 0), entry + 8
            if size > 4:
                left -= size
                (place,) = struct.unpack_from(f"{order}L", exif, place)
            if size == 0 or (left < 0 and size > 4):
                continue
            if place + size > len(exif):
                return None
            if tag == _TAG:  # several values: the first
                return int(*struct.unpack_from(order + WHOLE[kind], exif, place)) if kind in WHOLE else None
    except struct.error:  # beyond the end
        pass
    return None
