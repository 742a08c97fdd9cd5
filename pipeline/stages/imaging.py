"""Decodes image files (JPEG, PNG, WebP) to RGB pixels, defending against damaged and huge ones."""

import io
import math
import struct
import warnings
from dataclasses import dataclass

from PIL import ExifTags, Image, UnidentifiedImageError
from PIL.JpegImagePlugin import JpegImageFile

from pipeline.support.errors import BadImage
from pipeline.support.fields import counted, require

_FORMATS = ("JPEG", "PNG", "WEBP")
# Exceptions that Pillow raises for damaged files.
_DAMAGE = (
    *(OSError, ValueError, SyntaxError, EOFError, MemoryError),
    *(struct.error, ArithmeticError, LookupError, TypeError, AttributeError),
)
# Each scan of a JPEG is a pass over all its pixels; a progressive one has some ten.
_SCANS = 100
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

Image.MAX_IMAGE_PIXELS = None  # the limit is Imaging.max_pixels, checked before anything is decoded


@dataclass(frozen=True, kw_only=True)
class Imaging:
    """Configures decoding. An image of more than `max_pixels` (width x height) is refused as a bomb.

    A large JPEG is decoded at 1/2, 1/4 or 1/8 of its size, provided that both sides stay `draft_gap` times
    as long as the square that the model takes. With 3, the square's values (0 to 255) differ by less than
    0.5 on average, and by at most 4 in 999 of 1000 places; with 2, by 1 and 8. 0 decodes every pixel.
    """

    max_pixels: int = counted(100_000_000)
    draft_gap: float = counted(3.0)

    def __post_init__(self) -> None:
        require(self.max_pixels >= 1, "image.max_pixels must be at least 1")
        require(
            self.draft_gap == 0 or self.draft_gap >= 1,
            "image.draft_gap must be 0, or at least 1: no side gets longer",
        )


def decode(data: bytes, imaging: Imaging, side: int | None = None) -> tuple[Image.Image, int, int]:
    """Decode an image file to RGB, and turn it upright by its EXIF orientation.

    Args:
        data: the encoded file.
        imaging: limits.
        side: of the square that the model takes, in pixels; None decodes every pixel.

    Returns:
        The picture, and the width and height stored in the file (before turning and drafting).

    Raises:
        BadImage: the bytes are no JPEG, PNG or WebP, are damaged, or hold more than `max_pixels`.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore"
            )  # Pillow warns about sizes that are refused below, and about odd metadata
            stream = io.BytesIO(data)
            image = Image.open(stream, formats=_FORMATS)
            width, height = image.size
            if width * height > imaging.max_pixels:
                raise BadImage(f"the image has {width} x {height} pixels, more than image.max_pixels")
            scans = stream.getvalue().count(b"\xff\xda") if isinstance(image, JpegImageFile) else 1
            if width * height * scans > imaging.max_pixels * _SCANS:
                raise BadImage(
                    f"the image has {width} x {height} pixels in {scans} scans, more than it needs"
                )
            if side is not None and imaging.draft_gap:
                least = math.ceil(side * imaging.draft_gap)
                image.draft(None, (least, least))  # does nothing for other formats
            image.load()
            return _to_rgb(_upright(image)), width, height
    except UnidentifiedImageError:  # its text has a memory address, which differs in every run
        raise BadImage("the image cannot be decoded: it is no JPEG, PNG or WebP") from None
    except _DAMAGE as error:
        reason = " ".join(str(error)[:200].split())
        raise BadImage(f"the image cannot be decoded: {reason or type(error).__name__}") from None


def _upright(image: Image.Image) -> Image.Image:
    """Turn the picture upright by its EXIF orientation; unreadable EXIF is ignored.

    Pillow's `exif_transpose` would also rewrite the EXIF, which fails for some EXIF that it can read.
    """
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation)
    except _DAMAGE:
        orientation = None
    turn = _TURNS.get(orientation) if isinstance(orientation, int) else None
    return image if turn is None else image.transpose(turn)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16 bits a pixel: Pillow would clip them to 255
        image = image.convert("I").point(lambda value: value / 256).convert("L")
    return image.convert("RGB")
