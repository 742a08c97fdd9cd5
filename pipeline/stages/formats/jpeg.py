"""Bounds JPEG files: drops their metadata, and counts the passes over the pixels that their scans make."""

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

from pipeline.stages.formats.opening import Data, Opening, damaged, require_parts, require_size
from pipeline.stages.formats.orientation import either
from pipeline.support.errors import BadImage

_MARKER = re.compile(rb"\xff([^\x00\xff])")
_AFTER_SCAN = re.compile(rb"\xff([^\x00\xff\xd0-\xd7])")
_SCAN, _END, _APP1 = 0xDA, 0xD9, 0xE1
_FRAMES = frozenset({*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC})
# What decodes the pixels: frames, tables, the interval of restarts, JFIF's and Adobe's notes on colours.
_NEEDED = _FRAMES | {0xC4, 0xCC, 0xDB, 0xDC, 0xDD, 0xE0, 0xEE}
_METADATA = frozenset({*range(0xE1, 0xF0), 0xFE} - {0xEE})
_KNOWN = _NEEDED | _METADATA
_ALONE = frozenset({0x01, *range(0xD0, 0xD8)})  # markers without a segment
_MOST_NEEDED = 1 << 20  # bytes of headers; tables have some hundreds
_EXIF, _XMP = b"Exif\0\0", b"http://ns.adobe.com/xap/1.0/\0"
_EXIF_PARTS = 16  # EXIF of more than 64 KiB is continued in further segments
# The most samples that all scans may decode: a progressive picture of 100 megapixels has some 15 passes.
_MOST_SAMPLES = 2_500_000_000
# The samples that take as long as a byte of a picture in several scans, and the most of both together.
_SAMPLES_OF_BYTE = 70
_MOST_WORK = 5_000_000_000
_ARITHMETIC = 0xC9  # and frames of higher numbers
_MOST_ARITHMETIC = 25_000_000  # pixels; this coding is many times slower


def open_jpeg(data: Data, max_pixels: int) -> Opening:
    """Read a JPEG's headers up to its first scan, and refuse one that is costly to decode.

    Raises:
        BadImage: the headers are damaged or very many, or the scans make too many passes over the pixels.
    """
    headers = _headers(data)
    frames = [segment for segment in headers.needed if segment[1] in _FRAMES]
    if not frames or len(frames[-1]) < 10:
        raise damaged("it has no frame before its first scan")
    frame = frames[-1]
    height, width = struct.unpack_from(">HH", frame, 5)
    require_size(width, height, max_pixels)
    slim = b"".join([b"\xff\xd8", *headers.needed, data[headers.scan :]])
    scan = len(slim) - len(data) + headers.scan
    coefficients = _coefficient_bytes_of_pixel(slim, scan, frame)
    _require_few_passes(slim, scan, frame, most_samples(len(slim) if coefficients else 0))
    exif = b"".join([part[len(_EXIF) :] for part in headers.exif])  # each segment has the mark again
    return Opening(
        data=slim,
        plugins=("JPEG",),
        orientation=either(memoryview(exif), headers.xmp),
        scratch_of_pixel=coefficients,
    )


@dataclass
class _Headers:
    """Collects what stands before the first scan, and the scan's place."""

    needed: list[Data] = field(default_factory=list)
    exif: list[Data] = field(default_factory=list)
    xmp: Data | None = None
    scan: int = 0


def _headers(data: Data) -> _Headers:
    """Sort out the segments before the first scan that decode pixels, EXIF and XMP."""
    headers = _Headers()
    at, parts, size = 2, 0, 0
    while match := _MARKER.search(data, at):
        kind, start, at = match[1][0], match.start(), match.end()
        if kind == _SCAN:
            headers.scan = start
            return headers
        require_parts(parts := parts + 1, "segments")
        if kind in _ALONE:
            continue
        if kind not in _KNOWN:
            raise damaged(f"marker {kind:02x} stands before its first scan")
        length = int.from_bytes(data[at : at + 2], "big")
        if length < 2 or at + length > len(data):
            break
        content, segment = data[at + 2 : at + length], data[match.end() - 2 : at + length]
        at += length
        if kind in _NEEDED:
            headers.needed.append(segment)
            size += length
        elif kind == _APP1 and content[:6] == _EXIF and len(headers.exif) < _EXIF_PARTS:
            headers.exif.append(content)
        elif kind == _APP1 and content[: len(_XMP)] == _XMP:
            headers.xmp = content
        if size > _MOST_NEEDED:
            raise BadImage(f"the image has {size:,} bytes of headers, more than {_MOST_NEEDED:,}")
    raise damaged("it is truncated before its first scan")


def most_samples(size: int) -> int:
    """Return the samples that all scans may decode, if they have `size` bytes (0: there is one scan)."""
    most = min(_MOST_SAMPLES, _MOST_WORK - _SAMPLES_OF_BYTE * size)
    if most <= 0:
        limit = _MOST_WORK // _SAMPLES_OF_BYTE
        raise BadImage(f"the image has {size:,} bytes in several scans, more than {limit:,}")
    return most


def _require_few_passes(data: bytes, scan: int, frame: Data, most: int) -> None:
    """Refuse scans that decode more than `most` samples; a scan of a few bytes is a whole pass."""
    height, width = struct.unpack_from(">HH", frame, 5)
    if frame[1] >= _ARITHMETIC and width * height > _MOST_ARITHMETIC:
        raise BadImage(
            f"the image has {width} x {height} pixels in arithmetic coding, more than {_MOST_ARITHMETIC:,}"
        )
    if width * height * frame[9] * data.count(b"\xff\xda", scan) <= most:
        return  # as good as always, and much faster than to look at each scan
    scans = passes = 0
    for components in _scans(data, scan):
        scans, passes = scans + 1, passes + components
        if width * height * passes > most:
            raise BadImage(
                f"the image has {width} x {height} pixels and decodes {width * height * passes:,} samples in "
                f"its first {scans} scans, more than {most:,}"
            )


def _scans(data: bytes, scan: int) -> Iterator[int]:
    """Yield the number of components of each scan."""
    at, parts = scan, 0
    while (match := _AFTER_SCAN.search(data, at)) and match[1][0] != _END:
        require_parts(parts := parts + 1, "segments")
        at = match.end()
        if match[1][0] == _SCAN:
            yield min(4, data[at + 2]) if at + 2 < len(data) else 1
        at += int.from_bytes(data[at : at + 2], "big")


def _coefficient_bytes_of_pixel(data: bytes, scan: int, frame: Data) -> float:
    """Count the bytes a pixel that the decoder keeps until the last scan; 0 if there is only one."""
    components = frame[9]
    sampling = [divmod(value, 16) for value in frame[11 : 11 + 3 * components : 3]]
    in_scan = data[scan + 4 : scan + 5]  # the number of components, behind the marker and a length
    if frame[1] in (0xC0, 0xC1, 0xC9) and in_scan == bytes([components]):
        return 0.0
    across, down = (max((factors[side] for factors in sampling), default=1) for side in (0, 1))
    return 2.0 * sum(wide * high for wide, high in sampling) / max(1, across * down)
