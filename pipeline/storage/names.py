"""Writes local paths whose bytes are not UTF-8 as text, which Parquet and JSON can hold, and back."""

import os

# Python reads such a byte as a lone surrogate, which no UTF-8 text can hold. The private use area can.
_TO_TEXT = {0xDC00 + byte: 0xF700 + byte for byte in range(0x80, 0x100)}
_TO_PATH = {text: path for path, text in _TO_TEXT.items()}
_SHOWN = {text: f"\\x{text - 0xF700:02x}" for text in _TO_PATH}


def as_text(path: str) -> str:
    """Write a local path as text that is valid UTF-8."""
    return path if path.isascii() else path.translate(_TO_TEXT)


def as_path(text: str) -> str:
    """Return the local path that `as_text` wrote."""
    if text.isascii() or (path := text.translate(_TO_PATH)) == text or os.path.lexists(text):
        return text
    return path


def shown(text: str) -> str:
    """Write the bytes of a name that are not UTF-8 as escapes, `caf\\xe9.jpg`, for people and as a key."""
    if text.isascii():
        return text
    escaped = text.translate(_TO_TEXT).translate(_SHOWN)
    return escaped.encode("utf-8", "backslashreplace").decode("utf-8")
