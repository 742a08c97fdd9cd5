"""Encoded bytes to RGB pixels."""

import io
import warnings
from dataclasses import dataclass

from PIL import Image, ImageOps, UnidentifiedImageError

from pipeline.config import counted, require
from pipeline.errors import BadImage

_FORMATS = ("JPEG", "PNG", "WEBP")

Image.MAX_IMAGE_PIXELS = None  # the limit is Imaging.max_pixels, checked before anything is decoded


@dataclass(frozen=True, kw_only=True)
class Imaging:
    """How images are decoded. `max_pixels` (width x height) refuses decompression bombs."""

    max_pixels: int = counted(100_000_000)

    def __post_init__(self) -> None:
        require(self.max_pixels >= 1, "image.max_pixels must be at least 1")


def decode(data: bytes, imaging: Imaging) -> tuple[Image.Image, int, int]:
    """The picture as RGB, turned upright by its EXIF orientation, and its width and height as stored.

    Raises:
        BadImage: the bytes are no JPEG, PNG or WebP, are damaged, or hold more than `max_pixels`.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of what is refused below, and of odd metadata
            image = Image.open(io.BytesIO(data), formats=_FORMATS)
            width, height = image.size
            if width * height > imaging.max_pixels:
                raise BadImage(f"the image has {width} x {height} pixels, more than image.max_pixels")
            image.load()
            upright = ImageOps.exif_transpose(image)
            return _to_rgb(upright), width, height
    except UnidentifiedImageError:  # its own text names an address in memory: another one in every run
        raise BadImage("the image cannot be decoded: it is no JPEG, PNG or WebP") from None
    except (OSError, ValueError, SyntaxError, EOFError, MemoryError) as error:
        raise BadImage(f"the image cannot be decoded: {str(error)[:200] or type(error).__name__}") from None


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16 bits a pixel: Pillow would clip them to 255
        image = image.convert("I").point(lambda value: value / 256).convert("L")
    return image.convert("RGB")
