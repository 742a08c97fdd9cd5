"""Makes names of files from names that come from data: unique, and safe wherever they are unpacked."""

import hashlib
import re
import unicodedata

from pipeline.storage.names import shown
from pipeline.support.census import is_hidden
from pipeline.support.image_formats import IMAGE_FORMATS, format_of

# Of one part of a path, of a suffix, and of a whole path. File systems take 255 of a part and 4,096 in all.
_PART_BYTES, _SUFFIX_BYTES, _PATH_BYTES = 160, 30, 1000
# No file of Windows may have these in its name, nor these names.
_FORBIDDEN = re.compile(r'[<>:"|?*\\]')
_DEVICE = re.compile(r"(?:con|prn|aux|nul|com\d|lpt\d)(?:\.|$)", re.IGNORECASE)
# What looks like a file's suffix: a folder of this name would stand where a file may have to.
_SUFFIX = re.compile(r"\.([^.]*[^\W\d_][^.]*)$")


class UniqueNames:
    """Gives names to samples so that no two of its names are equal, in any letter case or composition."""

    def __init__(self) -> None:
        self._used: set[str] = set()

    def take(self, sample_key: str, row_key: str) -> str:
        """Make a safe path, without a suffix, that was not given before.

        Args:
            sample_key: the sample's name, in any form.
            row_key: the key of one of its rows, which is put behind a name that is taken.
        """
        name = safe_name(sample_key)
        while _folded(name) in self._used:
            name = f"{name}-{row_key.rpartition('-')[0]}"
        self._used.add(_folded(name))
        return name


def _folded(name: str) -> str:
    """Return what two names share if some file system takes them for the same."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def safe_name(name: str) -> str:
    """Make a relative path that is safe to unpack anywhere.

    webdataset takes what is before the first dot of the last part as a sample's key, and passes over parts
    such as `__a__`; we pass over hidden ones. So the last part has no dot, and no part is hidden, is empty,
    leads upwards, is longer than a file system takes, or has a character that commands a terminal.
    """
    *folders, last = [part for part in shown(name).split("/") if part not in ("", ".")] or ["_"]
    parts = [_safe_folder(part) for part in folders] + [_safe_part(last.replace(".", "_"))]
    path = "/".join(parts)
    return path if len(path.encode()) <= _PATH_BYTES else f"{parts[-1]}-{_digest(path)}"


def safe_suffix(suffix: str) -> str:
    """Make a suffix, which may have dots, safe as `safe_name` makes a name."""
    plain = _plain(shown(suffix).replace("/", "_"))
    return (
        plain if len(plain.encode()) <= _SUFFIX_BYTES else f"{_digest(plain)}.{_cut(plain, -_SUFFIX_BYTES)}"
    )


def _safe_folder(part: str) -> str:
    part = part.replace(".", "_") if part.startswith("..") else part
    return _safe_part(_SUFFIX.sub(r"_\1", part))


def _safe_part(part: str) -> str:
    plain = _plain(part)
    if plain.startswith("__") or is_hidden(plain) or _DEVICE.match(plain):
        plain = f"x{plain}"
    if len(plain.encode()) <= _PART_BYTES:
        return plain
    return f"{_cut(plain, _PART_BYTES)}-{_digest(plain)}"


def _plain(text: str) -> str:
    plain = "".join(character if character.isprintable() else "_" for character in text)
    return _FORBIDDEN.sub("_", plain).strip(" ").rstrip(". ") or "_"


def _cut(text: str, size: int) -> str:
    """Return the first bytes of a text, or the last ones if `size` is negative."""
    data = text.encode()
    return (data[:size] if size > 0 else data[size:]).decode(errors="ignore").strip(" .")


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def image_suffix(data: bytes) -> str:
    """Return the suffix of an image's format; "jpg" if it has none that is read."""
    format = format_of(data)
    return "jpg" if format is None else IMAGE_FORMATS[format].suffix
