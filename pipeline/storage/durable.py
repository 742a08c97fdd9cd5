"""Writes local files so that they survive a crash of the machine."""

import os
import shutil
import uuid
from pathlib import Path
from typing import BinaryIO


def write_beside(target: Path, content: BinaryIO) -> Path:
    """Write a temporary file beside the place of a file, flush it to disk, and return its path.

    Raises:
        OSError: it cannot be written; nothing is left of it then.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex}.tmp")
    try:
        with temporary.open("wb") as file:
            shutil.copyfileobj(content, file)
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    return temporary


def sync_folder(folder: Path) -> None:
    """Flush a folder's list of names to disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
