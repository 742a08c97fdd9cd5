"""Bounds WebP files: libwebp allocates the whole canvas as soon as a file is opened."""

import struct

from pipeline.stages.formats.opening import Data, Opening, damaged, require_memory, require_size
from pipeline.support.errors import BadImage

_OF_PIXEL = 12  # two canvases of an animation, even for a still picture, and a copy
_LOSSLESS = 4  # what its decoder takes besides
_MOST_BYTES = 40_000_000  # of the lossy coding, some 70 ms each million


def open_webp(data: Data, max_pixels: int) -> Opening:
    """Read a WebP's size from its first chunk.

    Raises:
        BadImage: the size is too large, or is not there.
    """
    size = _size(data)
    if size is None:
        raise damaged("it is truncated before its size")
    require_size(*size, max_pixels)
    if bytes(data[12:16]) != b"VP8L" and len(data) > _MOST_BYTES:
        raise BadImage(f"the image is a WebP of {len(data):,} bytes, more than {_MOST_BYTES:,}")
    of_pixel = _OF_PIXEL + (0 if bytes(data[12:16]) == b"VP8 " else _LOSSLESS)
    require_memory(2 * len(data) + size[0] * size[1] * (of_pixel + 4), *size)
    return Opening(
        data=data.tobytes(), plugins=("WEBP",), scratch=len(data), scratch_of_pixel=of_pixel
    )  # Pillow copies the data once


def _size(data: Data) -> tuple[int, int] | None:
    kind, head = bytes(data[12:16]), bytes(data[20:30])
    if len(head) < 10:
        return None
    if kind == b"VP8X":
        return int.from_bytes(head[4:7], "little") + 1, int.from_bytes(head[7:10], "little") + 1
    if kind == b"VP8 ":
        width, height = struct.unpack_from("<HH", head, 6)
        return width & 0x3FFF, height & 0x3FFF
    if kind == b"VP8L":
        (bits,) = struct.unpack_from("<L", head, 1)
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    return None
