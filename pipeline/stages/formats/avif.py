"""Bounds AVIF files: hides their EXIF from Pillow, and counts their bytes, frames and memory."""

import re

from pipeline.stages.formats.av1 import count_frames
from pipeline.stages.formats.opening import Data, Opening
from pipeline.support.errors import BadImage

_EXIF = re.compile(rb"(infe[\x02\x03]\0\0.(?:..|....)\0\0)Exif", re.DOTALL)
_OF_PIXEL = 12  # planes of up to 16 bits with transparency, and RGBA
_MOST_BYTES = 20_000_000  # a tenth of a second each million
_MOST_FRAMES = 4  # layers of one picture


def open_avif(data: Data, max_pixels: int) -> Opening:
    """Hide an AVIF's EXIF from Pillow; the container tells the orientation.

    Pillow would read all of its entries.

    Raises:
        BadImage: it has more bytes or frames than a picture needs, or its boxes are damaged.
    """
    if len(data) > _MOST_BYTES:
        raise BadImage(f"the image is an AVIF of {len(data):,} bytes, more than {_MOST_BYTES:,}")
    if (frames := count_frames(data)) > _MOST_FRAMES:
        raise BadImage(f"the image has {frames} frames in one picture, more than {_MOST_FRAMES}")
    return Opening(
        data=_EXIF.sub(rb"\1none", data.tobytes()),
        plugins=("AVIF",),
        scratch_of_pixel=_OF_PIXEL,
    )
