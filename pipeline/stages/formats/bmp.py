"""Bounds BMP and DIB files: Pillow decodes run lengths in Python, pixel by pixel."""

import struct

from pipeline.stages.formats.opening import Data, Opening, damaged, require_size
from pipeline.support.errors import BadImage

_FILE_HEADER = 14
_OLD_HEADER = 12  # has no compression
_RUN_LENGTHS = (1, 2)
_MOST_RUN_LENGTHS = 4_000_000  # pixels, or bytes of runs


def open_bmp(data: Data, max_pixels: int) -> Opening:
    """Read a BMP's or DIB's header, and refuse a large one of run lengths.

    Raises:
        BadImage: the picture is too large, or truncated before its pixels.
    """
    in_file = bytes(data[:2]) == b"BM"
    header = data[_FILE_HEADER if in_file else 0 :]
    if len(header) < _OLD_HEADER:
        raise damaged("it is truncated before its pixels")
    plugins = ("BMP",) if in_file else ("DIB",)
    if int.from_bytes(header[:4], "little") == _OLD_HEADER:
        width, height = struct.unpack_from("<HH", header, 4)
        require_size(width, height, max_pixels)
        return Opening(data=data.tobytes(), plugins=plugins)
    if len(header) < 20:
        raise damaged("it is truncated before its pixels")
    width, height, compression = struct.unpack_from("<Ll4xL", header, 4)
    height = abs(height)
    require_size(width, height, max_pixels)
    if compression in _RUN_LENGTHS and max(width * height, len(data)) > _MOST_RUN_LENGTHS:
        raise BadImage(
            f"the image has {width} x {height} pixels in {len(data):,} bytes of run lengths, "
            f"more than {_MOST_RUN_LENGTHS:,} of either"
        )
    scratch = 3 * width * height if compression in _RUN_LENGTHS else 0
    return Opening(data=data.tobytes(), plugins=plugins, scratch=scratch)
