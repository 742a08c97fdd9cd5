"""Reads a picture's orientation from EXIF or XMP, at a cost that its metadata cannot raise.

Pillow reads every entry of an EXIF directory with its data. Thousands of entries that share megabytes take it
minutes, so that only the one entry wanted here is read.
"""

import re
import struct
from collections.abc import Mapping
from typing import Any

from pipeline.stages.formats.opening import Data

_TAG = 0x0112
_KINDS = {3: "H", 4: "L", 6: "b", 8: "h", 9: "l", 13: "L", 16: "Q"}  # TIFF's types of integers
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
    """Return the orientation in the first directory of an EXIF block; None if it has none or is damaged."""
    if head := _HEAD.match(exif):
        exif = exif[head.end() :]
    order = _PREFIXES.get(bytes(exif[:4]))
    if order is None:
        return None
    try:
        (at,) = struct.unpack_from(f"{order}L", exif, 4)
        (count,) = struct.unpack_from(f"{order}H", exif, at)
        for entry in range(at + 2, at + 2 + 12 * count, 12):
            tag, kind, values = struct.unpack_from(f"{order}HHL", exif, entry)
            if tag == _TAG and (value := _first(exif, order, entry + 8, kind, values)) is not None:
                return value
    except struct.error:  # beyond the end
        pass
    return None


def _first(exif: Data, order: str, at: int, kind: int, values: int) -> int | None:
    """Read the first of an entry's values, which stand in the entry itself if they fit into four bytes."""
    form = _KINDS.get(kind)
    if form is None or values == 0:
        return None
    size = struct.calcsize(f"={form}") * values
    if size > 4:
        (at,) = struct.unpack_from(f"{order}L", exif, at)
        if at + size > len(exif):
            return None
    value: int
    (value,) = struct.unpack_from(f"{order}{form}", exif, at)
    return value
