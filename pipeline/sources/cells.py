"""Reads an image cell: bytes, a path, base64, or a list of one."""

import base64
import binascii
import re
import urllib.parse

from pipeline.sources.base import MAX_IMAGE_BYTES
from pipeline.support.errors import BadImage, BadSample
from pipeline.support.image_formats import is_surely_image

MAX_PATH_CHARACTERS = 4096
_LEAST_BASE64 = 64  # characters; a shorter text is a path
_BASE64 = re.compile(r"[A-Za-z0-9+/_\-\s]+=*\s*")
_URLSAFE = str.maketrans("-_", "+/")


def only_image(value: object, name: str) -> bytes | str:
    """Return the one image that a value holds: bytes, or the path of its file, or base64.

    Args:
        value: of an image column or key: bytes, a text, `{bytes, path}`, or a list of one of these.
        name: what holds the value, for messages: "row" or "line".

    Raises:
        BadSample: it is nothing of these, or several images.
    """
    if isinstance(value, list):
        if len(value) > 1:
            raise BadSample(f"the {name} has {len(value)} images")
        value = value[0] if value else None
    if isinstance(value, dict):
        value = _of_struct(value, name)
    if isinstance(value, bytes | str):
        return value
    if value is None:
        raise BadSample(f"the {name} has no image")
    raise BadSample(f"the image is neither bytes nor a path, but {type(value).__name__}")


def _of_struct(value: dict[str, object], name: str) -> object:
    if value and not value.keys() & {"bytes", "path"}:
        names = ", ".join(sorted(map(str, value)))[:100]
        raise BadSample(f"the image has neither bytes nor path, but {names}")
    return value.get("bytes") or value.get("path")


def image_or_path(value: bytes | str) -> bytes | str:
    """Decode a data URI or base64; other texts are paths, other bytes an image's.

    Raises:
        BadImage: it is too large, or its base64 is damaged, or its path is no path.
    """
    if is_inline(value):
        value = _decoded(value.decode("latin-1") if isinstance(value, bytes) else value)
    if isinstance(value, bytes) and len(value) > MAX_IMAGE_BYTES:
        raise BadImage(f"the image is too large: {len(value)} bytes")
    if isinstance(value, str) and len(value) > MAX_PATH_CHARACTERS:
        raise BadImage(f"the path of the image is too long: {len(value)} characters")
    return value


def is_inline(value: str | bytes) -> bool:
    """Tell whether a value begins as a data URI, or as base64 of an image file; a path does not."""
    head = value[:_LEAST_BASE64]
    text = head.decode("latin-1") if isinstance(head, bytes) else head
    if text[:5].lower() == "data:":
        return "," in text or len(text) == _LEAST_BASE64
    if len(text) < _LEAST_BASE64 or not _BASE64.fullmatch(text):
        return False
    plain = "".join(text.split()).translate(_URLSAFE)
    try:
        first = base64.b64decode(plain[: len(plain) // 4 * 4])
    except (binascii.Error, ValueError):
        return False
    return is_surely_image(first) or first[4:8] == b"ftyp"  # HEIC: no path either, though it is not read


def _decoded(text: str) -> bytes:
    """Decode base64, or `data:image/png;base64,...`, as RFC 2397 has it."""
    if text[:5].lower() != "data:":
        return _from_base64(text, "base64")
    kind, _, data = text.partition(",")
    if kind.rstrip().lower().endswith(";base64"):
        return _from_base64(urllib.parse.unquote(data) if "%" in data else data, "data URI")
    return urllib.parse.unquote_to_bytes(data)


def _from_base64(text: str, kind: str) -> bytes:
    if len(text) > MAX_IMAGE_BYTES // 3 * 4:
        raise BadImage(f"the image is too large: {len(text)} characters of {kind}")
    plain = "".join(text.split()).translate(_URLSAFE).rstrip("=")
    try:
        return base64.b64decode(plain + "=" * (-len(plain) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise BadImage(f"the image's {kind} is damaged") from None
