"""Bounds AVIF files: hides their EXIF from Pillow, and counts the memory that they take."""

import re

from pipeline.stages.formats.opening import Data, Opening

_EXIF = re.compile(rb"(infe[\x02\x03]\0\0.(?:..|....)\0\0)Exif", re.DOTALL)
_OF_PIXEL = 12  # planes, their copy in a grid, and RGB; what takes more meets the limit of memory


def open_avif(data: Data, max_pixels: int) -> Opening:
    """Hide the EXIF of an AVIF, whose entries Pillow would all read; its turn stands in the container."""
    return Opening(
        data=_EXIF.sub(rb"\1none", data.tobytes()),
        plugins=("AVIF",),
        scratch_of_pixel=_OF_PIXEL,
    )
