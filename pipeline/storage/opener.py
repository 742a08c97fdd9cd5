"""Opens a source's files: regular ones only, and through links only if asked."""

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO, cast

from fsspec.implementations.local import LocalFileSystem

from pipeline.storage.names import as_path
from pipeline.storage.uris import Storage

# O_NONBLOCK: between the look and the opening a file could be replaced by a FIFO, which would hang.
_READ = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_FOLDER = getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_CLOEXEC
_KINDS = {
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFDIR: "a folder",
}


class RefusedFileError(OSError):
    """Says why a file of the source is not opened: it is no regular file. No outage."""


class LinkRefusedError(RefusedFileError):
    """Says that a link leads to a file, where links are not followed."""


def open_file(uri: str, root: str, storage: Storage, *, follow_links: bool, **caching: object) -> BinaryIO:
    """Open a file of the source for reading.

    A local file must be a regular one at or below `root`, and unless `follow_links` no link may lead to it.
    `root` itself is the user's own word: it may be a link.

    Args:
        caching: options of fsspec's `open` for other stores.

    Raises:
        RefusedFileError: it is no regular file, or a link leads to it.
        OSError: it does not exist, or may not be read.
    """
    fs, path = storage.open(uri)
    if not isinstance(fs, LocalFileSystem):
        return cast(BinaryIO, fs.open(path, "rb", **caching))
    return open_local(path, storage.open(root)[1], follow_links=follow_links)


def open_local(path: str, root: str, *, follow_links: bool) -> BinaryIO:
    """Open a local file, as `open_file` does, by its path."""
    return os.fdopen(_open_regular(path) if follow_links else _open_below(root, path), "rb")


def read_local(path: str, root: str, most: int, *, follow_links: bool) -> bytes:
    """Read a local file, as `open_file` does; of a larger file than `most` bytes only the first `most` + 1.

    Raises:
        RefusedFileError: as `open_file`; or it has more bytes than its size, as the files of /proc have.
    """
    with open_local(path, root, follow_links=follow_links) as file:
        size = os.fstat(file.fileno()).st_size
        data = file.read(min(size, most) + 1)
    if len(data) > size:
        raise RefusedFileError("it has more bytes than its size says")
    return data


def is_over_link(uri: str) -> bool:
    """Tell whether a local URI leads over a link to a file that exists."""
    if not uri.startswith("file://"):
        return False
    path = Path(as_path(uri.removeprefix("file://")))
    return path.exists() and path.resolve() != path


def _open_below(root: str, path: str) -> int:
    """Open a regular file below a folder without following a link in between."""
    if path == root:
        return _open_regular(path)
    name = path.removeprefix(f"{root.rstrip('/')}/")
    if name == path:
        raise RefusedFileError("it is not below the folder of the source")
    *folders, last = (part for part in name.split("/") if part)
    below = os.open(root, _FOLDER)
    try:
        for folder in folders:
            above, below = below, _open_subfolder(folder, below)
            os.close(above)
        return _open_regular(last, below)
    finally:
        os.close(below)


def _open_subfolder(name: str, above: int) -> int:
    try:
        return os.open(name, _FOLDER | os.O_NOFOLLOW, dir_fd=above)
    except OSError as error:
        if error.errno in (errno.ENOTDIR, errno.ELOOP):
            _require_no_link(os.stat(name, dir_fd=above, follow_symlinks=False))
        raise


def _open_regular(name: str, above: int | None = None) -> int:
    """Open a regular file; with `above`, the folder that has it, `name` itself must not be a link."""
    follows = above is None
    _require_regular(os.stat(name, dir_fd=above, follow_symlinks=follows))
    descriptor = os.open(name, _READ | (0 if follows else os.O_NOFOLLOW), dir_fd=above)
    try:
        _require_regular(os.fstat(descriptor))
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def _require_regular(status: os.stat_result) -> None:
    _require_no_link(status)
    if not stat.S_ISREG(status.st_mode):
        raise RefusedFileError(f"it is {_KINDS.get(stat.S_IFMT(status.st_mode), 'no regular file')}")


def _require_no_link(status: os.stat_result) -> None:
    if stat.S_ISLNK(status.st_mode):
        raise LinkRefusedError("a link leads to it (source.follow_links=true follows links)")
