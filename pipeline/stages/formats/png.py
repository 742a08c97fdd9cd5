"""Bounds PNG files: keeps the pixels' chunks, and of the texts reads only the orientation."""

import struct
import zlib
from dataclasses import dataclass, field

from pipeline.stages.formats.opening import Data, Opening, damaged, require_parts, require_size
from pipeline.stages.formats.orientation import either
from pipeline.support.errors import BadImage

_NEEDED = (b"IHDR", b"PLTE", b"tRNS", b"acTL", b"fcTL")
_PIXELS = (b"IDAT", b"fdAT", b"DDAT")
_TEXTS = (b"tEXt", b"zTXt", b"iTXt")
_END = b"\0\0\0\0IEND\xae\x42\x60\x82"
_HEADER = 33
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
_XMP, _RAW_EXIF = b"XML:com.adobe.xmp", b"Raw profile type exif"
_MOST_TEXT = 16 << 20  # bytes of XMP or EXIF, inflated
# Rows are unfiltered at some 80 MB/s at worst, interlaced ones at 65: 100 megapixels of RGB must pass.
_MOST_ROWS = 320_000_000


@dataclass
class _Chunks:
    """Collects the chunks before the pixels, the place of the pixels, and the last EXIF and texts."""

    needed: list[Data] = field(default_factory=list)
    start: int = 0
    stop: int = 0
    ended: bool = False
    exif: Data | None = None
    texts: dict[bytes, tuple[bytes, Data]] = field(default_factory=dict)


def open_png(data: Data, max_pixels: int) -> Opening:
    """Read a PNG's chunks, and keep those that make its first picture.

    Raises:
        BadImage: there are too many chunks or bytes of rows, or none that hold pixels.
    """
    chunks = _chunks(data)
    if not chunks.start or bytes(data[12:16]) != b"IHDR" or len(data) < _HEADER:
        raise damaged("it is truncated before its pixels")
    width, height, depth, color, interlaced = struct.unpack_from(">LLBBxxB", data, 16)
    require_size(width, height, max_pixels)
    rows = height * (1 + (width * depth * _CHANNELS.get(color, 1) + 7) // 8)
    limit = _MOST_ROWS * 3 // 4 if interlaced else _MOST_ROWS
    if rows > limit:
        raise BadImage(f"the image has {width} x {height} pixels of {rows:,} bytes, more than {limit:,}")
    pixels = data[chunks.start : chunks.stop]
    return Opening(
        data=b"".join([data[:8], *chunks.needed, pixels, _END if chunks.ended else b""]),
        plugins=("PNG",),
        orientation=either(_exif(chunks), _inflated(*chunks.texts.get(_XMP, (b"", None)))),
    )


def _chunks(data: Data) -> _Chunks:
    """Sort the chunks up to the end, or up to one that is no chunk."""
    chunks = _Chunks()
    at, parts = 8, 0
    while at + 8 <= len(data):
        size, kind = struct.unpack_from(">L4s", data, at)
        end = at + 12 + size
        if not kind.isalnum() or kind == b"IEND":
            break
        require_parts(parts := parts + 1, "chunks")
        content = data[at + 8 : end - 4]
        if kind in _PIXELS and (not chunks.start or chunks.stop == at):
            chunks.start, chunks.stop = chunks.start or at, end
            chunks.ended = end <= len(data)
        elif kind in _NEEDED and not chunks.start and (kind != b"IHDR" or at == 8):
            chunks.needed.append(data[at:end])
        elif kind == b"eXIf":
            chunks.exif = content
        elif kind in _TEXTS:
            name = bytes(content[:80]).partition(b"\0")[0]
            if name in (_XMP, _RAW_EXIF):
                chunks.texts[name] = (kind, content[len(name) + 1 :])
        at = end
    return chunks


def _exif(chunks: _Chunks) -> Data | None:
    """Return the EXIF: of its own chunk, or as ImageMagick writes it, in hexadecimal digits."""
    if chunks.exif is not None or _RAW_EXIF not in chunks.texts:
        return chunks.exif
    text = bytes(_inflated(*chunks.texts[_RAW_EXIF]) or b"")
    try:
        return memoryview(bytes.fromhex(b"".join(text.split(b"\n")[3:]).decode("latin-1")))
    except ValueError:
        return None


def _inflated(kind: bytes, content: Data | None) -> Data | None:
    """Return the first `_MOST_TEXT` bytes of a text chunk's value, without the name before it."""
    packed = kind == b"zTXt"
    if content is not None and kind == b"iTXt":  # two flags, a language and a translated name come first
        packed = bytes(content[:1]) == b"\1"
        rest = bytes(content[2 : 2 + 4096])
        content = content[2 + len(rest) - len(rest.split(b"\0", 2)[-1]) :]
    elif packed and content is not None:
        content = content[1:]
    if not packed or content is None:
        return content
    try:
        return memoryview(zlib.decompressobj().decompress(content, _MOST_TEXT))
    except zlib.error:
        return None
