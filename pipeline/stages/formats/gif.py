"""Bounds GIF files: Pillow reads what stands before the first picture block by block."""

import struct

from pipeline.stages.formats.opening import Data, Opening, require_parts, require_size

_HEADER = 13
_EXTENSION, _PICTURE = 0x21, 0x2C


def open_gif(data: Data, max_pixels: int) -> Opening:
    """Read a GIF's size, and refuse one with very many blocks before its first picture.

    Raises:
        BadImage: the screen or the first picture is too large, or there are too many blocks before it.
    """
    if len(data) >= _HEADER:
        width, height = struct.unpack_from("<HH", data, 6)
        require_size(width, height, max_pixels)
        at = _first_picture(data)
        if at + 9 <= len(data):
            left, top, across, down = struct.unpack_from("<HHHH", data, at)
            require_size(max(width, left + across), max(height, top + down), max_pixels)
    return Opening(data=data.tobytes(), plugins=("GIF",))


def _first_picture(data: Data) -> int:
    """Find the description of the first picture; the end of the file if there is none."""
    flags = data[10]
    at = _HEADER + (3 << (flags & 7) + 1 if flags & 0x80 else 0)
    parts = 0
    while at < len(data):
        require_parts(parts := parts + 1, "blocks before its first picture")
        kind, at = data[at], at + 1
        if kind == _PICTURE:
            return at
        if kind != _EXTENSION:  # Pillow passes over any other byte
            continue
        at += 1
        while at < len(data) and data[at]:
            require_parts(parts := parts + 1, "blocks before its first picture")
            at += 1 + data[at]
        at += 1
    return at
