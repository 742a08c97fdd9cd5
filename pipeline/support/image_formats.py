"""Lists the formats of images that are read, and tells them by a file's first bytes.

A source asks whether a text is base64 of an image, the decode stage for the opener, an export for a suffix.
"""

import re
from dataclasses import dataclass

HEAD_BYTES = 16  # of a file, which tell its format

# The sizes that the header of a DIB may have; a BMP is a DIB behind a header of its own.
_DIB_SIZES = rb"[\x0c(48@l|]\0\0\0"
# A DIB of one plane, which all are. Its size alone is four bytes that are mostly zero.
_SURE_DIB = rb"\x0c\0\0\0.{4}\x01\0|[(48@l|]\0\0\0.{8}\x01\0"


@dataclass(frozen=True)
class ImageFormat:
    """Describes one format.

    Args:
        name: for people.
        suffix: of its files.
        begins: matches how its files begin.
        surely_begins: the same where most data are no images: at least three certain bytes.
    """

    name: str
    suffix: str
    begins: re.Pattern[bytes]
    surely_begins: re.Pattern[bytes]


def _format(name: str, suffix: str, begins: bytes, surely_begins: bytes | None = None) -> ImageFormat:
    sure = begins if surely_begins is None else surely_begins
    return ImageFormat(name, suffix, re.compile(begins, re.DOTALL), re.compile(sure, re.DOTALL))


IMAGE_FORMATS = {
    "jpeg": _format("JPEG", "jpg", rb"\xff\xd8\xff"),
    "png": _format("PNG", "png", rb"\x89PNG\r\n\x1a\n"),
    "webp": _format("WebP", "webp", rb"RIFF.{4}WEBP"),
    "gif": _format("GIF", "gif", rb"GIF8[79]a"),
    "bmp": _format("BMP", "bmp", rb"BM|" + _DIB_SIZES, rb"BM.{4}\0{4}|" + _SURE_DIB),
    # Pillow reads the mark in either order, but of BigTIFFs only those of Intel.
    "tiff": _format("TIFF", "tif", rb"II\*\0|MM\0\*|II\0\*|MM\*\0|II\+\0"),
    "avif": _format("AVIF", "avif", rb".{4}ftyp(?:avif|avis|mif1|msf1)"),
}


def format_of(data: bytes | memoryview) -> str | None:
    """Return the key in `IMAGE_FORMATS` of a file's format; None if it has none of them."""
    head = bytes(data[:HEAD_BYTES])
    return next((key for key, format in IMAGE_FORMATS.items() if format.begins.match(head)), None)


def is_surely_image(head: bytes) -> bool:
    """Tell whether the first bytes are an image's beyond doubt, which those of a text hardly ever are."""
    return any(format.surely_begins.match(head) for format in IMAGE_FORMATS.values())
