"""Keeps generated files in the user's cache: closed to others, checked before use, made once."""

import atexit
import contextlib
import hashlib
import json
import logging
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pipeline.support.errors import ConfigError

_RECORDS = ".records"  # folder of the cache: what was written into each of its folders
_COMPILER_CACHE = "TORCHINDUCTOR_CACHE_DIR"
_HASHED_BYTES = 16 << 20  # larger files are hashed again only if their time has changed


def cache_folder() -> Path:
    """Return the user's cache of generated files: `$XDG_CACHE_HOME/trimline` or `~/.cache/trimline`.

    Raises ConfigError if there is no home.
    """
    root = os.environ.get("XDG_CACHE_HOME")
    try:
        return Path(root or Path.home() / ".cache").absolute() / "trimline"
    except RuntimeError:
        raise ConfigError(
            "this user has no home folder for a cache; name a place with XDG_CACHE_HOME"
        ) from None


def private_cache() -> Path:
    """Return the cache folder, made and closed to other users.

    Raises ConfigError if it cannot be made, or belongs to another user.
    """
    folder = cache_folder()
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        owners = {folder.lstat().st_uid, folder.stat().st_uid}
        if owners != {os.geteuid()}:
            problem = "belongs to another user"
        elif folder.is_symlink() and folder.stat().st_mode & 0o077:  # others may need what it leads to
            problem = "is a link to a folder open to others"
        else:
            folder.chmod(0o700)
            return folder
    except OSError as error:
        problem = f"cannot be made or closed to others ({error.strerror})"
    raise ConfigError(f"the cache {folder} {problem}; name a place of your own with XDG_CACHE_HOME")


def use_private_compiler_cache() -> None:
    """Let torch keep what it compiles where no other user can put something in its place.

    Its own choice is a folder in /tmp under a name that others know. A TORCHINDUCTOR_CACHE_DIR is kept.
    """
    if _COMPILER_CACHE in os.environ:
        return
    try:
        folder = private_cache() / "torchinductor"
    except ConfigError:
        folder = Path(tempfile.mkdtemp(prefix="trimline-torch-"))
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
    os.environ[_COMPILER_CACHE] = str(folder)


def cached(name: str, make: Callable[[Path], None]) -> Path:
    """Return a folder of the cache, filled by `make` if it is missing, or not as `make` left it.

    A file that is made again with the same content keeps its time, by which plans know the files of a source.
    See `make_once` for processes that do this at the same time.
    Raises ConfigError as `private_cache`.
    """
    cache = private_cache()
    folder, record = cache / name, cache / _RECORDS / f"{name}.json"

    times: dict[tuple[str, str], int] = {}

    def make_recorded(target: Path) -> None:
        make(target)
        try:
            _write_record(target, record, times)
        except OSError as error:
            raise ConfigError(f"{record}: cannot be written ({error.strerror}); remove {cache}") from None

    if not is_as_recorded(folder, record):
        times |= _known_times(folder, record)
        if folder.exists() and record.exists():  # earlier releases wrote no record
            logging.getLogger(__name__).warning("%s was damaged, and is made again", folder)
        _discard(folder)
    return make_once(folder, make_recorded)


def make_once(folder: Path, make: Callable[[Path], None]) -> Path:
    """Return `folder`, after `make` has filled it if it did not exist.

    It appears complete or not at all. Processes that begin at the same time each fill a temporary folder
    beside it; the first to rename its own wins, and the others remove theirs. There is no lock, which a
    network file system may not have, so `make` must write the same content in each process.
    """
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as temporary:
        target = Path(temporary) / "folder"
        target.mkdir()
        make(target)
        try:
            target.rename(folder)
        except OSError:  # another process was first
            if not folder.is_dir():
                raise
    return folder


def is_as_recorded(folder: Path, record: Path) -> bool:
    """Tell whether a folder holds what its record names, all of it this user's alone."""
    try:
        recorded = json.loads(record.read_bytes())
        found = _files(folder)
        return recorded.keys() == found.keys() and all(
            _is_same(found[name], entry) for name, entry in recorded.items()
        )
    except (OSError, ValueError, AttributeError, KeyError, TypeError):
        return False


def _discard(folder: Path) -> None:
    """Remove a folder if it is there; its place is free at once."""
    place = tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-")
    with place as temporary, contextlib.suppress(FileNotFoundError):  # another process was first
        folder.rename(Path(temporary) / "damaged")


def _known_times(folder: Path, record: Path) -> dict[tuple[str, str], int]:
    """Collect the times of a folder's files by name and hash: from its record, or as they are."""
    with contextlib.suppress(OSError, ValueError, AttributeError, KeyError, TypeError):
        entries = json.loads(record.read_bytes()).items()
        return {
            (name, entry["sha256"]): int(entry["time_ns"]) for name, entry in entries if "link" not in entry
        }
    files = {name: path for name, path in _files(folder).items() if path.is_file() and not path.is_symlink()}
    return {(name, sha256_of(path)): path.stat().st_mtime_ns for name, path in files.items()}


def _write_record(folder: Path, record: Path, times: Mapping[tuple[str, str], int]) -> None:
    """Write the record of a folder, after no file of it can be written by others.

    It is there before the folder is: a folder without a record is not one of this release. A file's time is
    the known one of the same content, else 0, so that processes that make it at once write equal records.
    """
    for path in [folder, *folder.rglob("*")]:
        if not path.is_symlink():
            path.chmod(path.stat().st_mode & ~0o022)
    files = _files(folder)
    entries = {name: _entry(path) for name, path in files.items()}
    for name, entry in entries.items():
        if "sha256" in entry:
            entry["time_ns"] = times.get((name, entry["sha256"]), 0)
            os.utime(files[name], ns=(entry["time_ns"],) * 2)
    record.parent.mkdir(exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=record.parent, delete=False) as file:
        json.dump(entries, file)
    Path(file.name).replace(record)


def _files(folder: Path) -> dict[str, Path]:
    """List the files and links below a folder by their relative names."""
    found = [path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir()]
    return {str(path.relative_to(folder)): path for path in found}


def _entry(path: Path) -> dict[str, Any]:  # JSON of the record
    if path.is_symlink():
        return {"link": str(path.readlink())}
    return {"bytes": path.stat().st_size, "sha256": sha256_of(path)}


def _is_same(path: Path, entry: dict[str, Any]) -> bool:
    """Tell whether a file is this user's and as recorded; a link's target is not looked into."""
    found = path.lstat()
    if found.st_uid != os.geteuid():
        return False
    if stat.S_ISLNK(found.st_mode):
        return entry == {"link": str(path.readlink())} and path.exists()
    if not stat.S_ISREG(found.st_mode) or found.st_mode & 0o022 or found.st_size != entry["bytes"]:
        return False
    is_trusted = found.st_size > _HASHED_BYTES and found.st_mtime_ns == entry["time_ns"]
    return is_trusted or bool(sha256_of(path) == entry["sha256"])


def sha256_of(path: Path) -> str:
    """Compute the hash of a local file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
