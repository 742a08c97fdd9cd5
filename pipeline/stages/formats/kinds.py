"""Tells the formats that images may have by their first bytes."""

from collections.abc import Callable
from dataclasses import dataclass

from PIL import features

from pipeline.stages.formats.avif import open_avif
from pipeline.stages.formats.bmp import open_bmp
from pipeline.stages.formats.gif import open_gif
from pipeline.stages.formats.jpeg import open_jpeg
from pipeline.stages.formats.opening import Data, Opening
from pipeline.stages.formats.png import open_png
from pipeline.stages.formats.tiff import open_tiff
from pipeline.stages.formats.webp import open_webp

_DIB = tuple(size.to_bytes(4, "little") for size in (12, 40, 52, 56, 64, 108, 124))
_TIFF = (
    b"II*\0",
    b"MM\0*",
    b"II\0*",
    b"MM*\0",
    b"II+\0",
)  # Pillow takes a BigTIFF of the other byte order for another
_AVIF = (b"avif", b"avis", b"mif1", b"msf1")


@dataclass(frozen=True)
class Format:
    """Names a format for people, and says how a file of it begins and is opened.

    Args:
        codec: the part of Pillow without which it cannot be read; empty: Pillow always has it.
    """

    name: str
    begins: Callable[[bytes], bool]
    open: Callable[[Data, int], Opening]
    codec: str = ""

    @property
    def can_be_read(self) -> bool:
        """Whether the installed Pillow has what it needs."""
        return not self.codec or bool(features.check(self.codec))


FORMATS = {
    "jpeg": Format("JPEG", lambda head: head.startswith(b"\xff\xd8\xff"), open_jpeg, "jpg"),
    "png": Format("PNG", lambda head: head.startswith(b"\x89PNG\r\n\x1a\n"), open_png, "zlib"),
    "webp": Format("WebP", lambda head: head[:4] == b"RIFF" and head[8:12] == b"WEBP", open_webp, "webp"),
    "gif": Format("GIF", lambda head: head.startswith((b"GIF87a", b"GIF89a")), open_gif),
    "bmp": Format("BMP", lambda head: head.startswith((b"BM", *_DIB)), open_bmp),
    "tiff": Format("TIFF", lambda head: head.startswith(_TIFF), open_tiff),
    "avif": Format("AVIF", lambda head: head[4:8] == b"ftyp" and head[8:12] in _AVIF, open_avif, "avif"),
}


def format_of(data: Data) -> str | None:
    """Return the key in `FORMATS` of a file's format; None if it has none of them."""
    head = bytes(data[:16])
    return next((key for key, kind in FORMATS.items() if kind.begins(head)), None)
