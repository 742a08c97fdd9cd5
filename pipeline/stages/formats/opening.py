"""Describes what the decoder of a format is given of a file, and what decoding it will take."""

from dataclasses import dataclass

from pipeline.support.errors import BadImage

Data = memoryview  # of bytes; slices of it are not copied

MIB = 1 << 20
MEMORY = 896 * MIB  # the most that one image may take; with the process itself that stays below 1 GiB
# Python and Pillow take microseconds for each chunk, segment or block, whatever its size.
MOST_PARTS = 100_000


@dataclass(frozen=True, kw_only=True)
class Opening:
    """Holds what Pillow is given of a file, with what was read of the file before.

    Args:
        data: the file without its metadata, which never reach Pillow.
        plugins: of Pillow, the only ones that may open it.
        orientation: of EXIF or XMP, 1 to 8; None: none, or Pillow tells it.
        scratch: bytes that decoding takes beside the picture.
        scratch_of_pixel: the same for each pixel of the file.
        bits: of a grey value, if they are neither 8 nor 16.
    """

    data: bytes
    plugins: tuple[str, ...]
    orientation: int | None = None
    scratch: int = 0
    scratch_of_pixel: float = 0.0
    bits: int | None = None


def require_size(width: int, height: int, max_pixels: int) -> None:
    """Refuse a picture of more than `max_pixels`."""
    if width * height > max_pixels:
        raise BadImage(f"the image has {width} x {height} pixels, more than image.max_pixels={max_pixels}")


def require_parts(count: int, what: str) -> None:
    """Refuse a file of more than `MOST_PARTS` parts, which `what` names."""
    if count > MOST_PARTS:
        raise BadImage(f"the image has more than {MOST_PARTS:,} {what}")


def require_memory(needed: float, width: int, height: int) -> None:
    """Refuse a picture that takes more than `MEMORY` bytes to decode."""
    if needed > MEMORY:
        raise BadImage(
            f"the image has {width} x {height} pixels and takes {needed / MIB:,.0f} MiB to decode, "
            f"more than {MEMORY // MIB}"
        )


def damaged(reason: str) -> BadImage:
    """Make the error of a file that no decoder could read."""
    return BadImage(f"the image cannot be decoded: {reason}")
