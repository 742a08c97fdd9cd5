"""Walks a local folder in the order of whole paths, over links only if they are to be followed."""

import errno
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from fsspec.utils import glob_translate

from pipeline.storage.names import as_text
from pipeline.support.census import Reason

_NOWHERE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG)
# A path with what it is: the status of a regular file, or why it is passed over.
Found = tuple[str, "os.stat_result | Reason"]


@dataclass(frozen=True)
class Glob:
    """Says which files match a pattern, and which folders may hold some."""

    takes: Callable[[str], object]
    enters: Callable[[str], object]


def glob_of(pattern: str) -> Glob:
    """Make a `Glob` with the rules of fsspec."""
    parts = pattern.split("/")
    any_depth = parts.index("**") if "**" in parts else len(parts)
    levels = [re.compile(glob_translate("/".join(parts[: depth + 1]))).match for depth in range(any_depth)]

    def enters(path: str) -> object:
        depth = path.count("/")
        if depth >= any_depth:
            return any_depth < len(parts)
        return depth < len(parts) - 1 and levels[depth](path)

    return Glob(re.compile(glob_translate(pattern)).match, enters)


def walk(folder: str, *, follow_links: bool, glob: Glob | None = None) -> Iterator[Found]:
    """Yield what is below a folder, with one folder at each depth in memory.

    Links to folders are walked if `follow_links`, but no folder's content is listed twice: a link is passed
    over if it leads to where the walk comes by itself, or where another link has led. So loops end.

    Args:
        glob: of what is below the folder, only what matches, and links to folders that may hold some.
    """
    root = real = os.path.realpath(folder)
    listed = {real}
    stack = [(real, _ordered(folder, follow_links))]
    while stack:
        real, entries = stack[-1]
        entry = next(entries, None)
        if entry is None:
            stack.pop()
            continue
        path = entry.path
        is_link, is_folder = entry.is_symlink(), _is_folder(entry, follow_links)
        if not is_folder:
            if glob is None or glob.takes(path) or (is_link and glob.enters(path) and _leads_to_folder(path)):
                yield path, _file_of(entry, follow_links)
        elif glob is None or glob.enters(path):
            target = os.path.realpath(path) if is_link else f"{real.rstrip('/')}/{entry.name}"
            if is_link:
                is_listed = _is_inside(target, listed - {root}) or _is_walked(target, root, folder, glob)
            else:
                is_listed = target in listed
            if is_listed:
                yield f"{path}/", Reason.LISTED_ELSEWHERE
                continue
            if is_link:
                listed.add(target)
            stack.append((target, _ordered(path, follow_links)))


def _ordered(folder: str, follow_links: bool) -> Iterator["os.DirEntry[str]"]:
    with os.scandir(folder) as entries:
        return iter(
            sorted(
                entries,
                key=lambda entry: as_text(entry.name) + ("/" if _is_folder(entry, follow_links) else ""),
            )
        )


def _is_folder(entry: "os.DirEntry[str]", follow_links: bool) -> bool:
    try:
        return entry.is_dir(follow_symlinks=follow_links)
    except OSError:  # a link to itself
        return False


def _file_of(entry: "os.DirEntry[str]", follow_links: bool) -> os.stat_result | Reason:
    """Return the status of a regular file, or why the entry is passed over."""
    is_link = entry.is_symlink()
    try:
        status = entry.stat()
        is_file = entry.is_file()
    except OSError as error:
        if is_link and error.errno == errno.ELOOP and Path(os.path.realpath(entry.path)).exists():
            return Reason.TOO_MANY_LINKS
        if is_link and error.errno in _NOWHERE:
            return Reason.DANGLING
        if is_link and not follow_links:
            return Reason.LINK
        if error.errno == errno.ENOENT:  # it is gone since the folder was listed
            return Reason.SPECIAL
        raise
    if is_link and not follow_links:
        return Reason.LINK
    return status if is_file else Reason.SPECIAL


def _is_inside(target: str, folders: set[str]) -> bool:
    """Tell whether a real path is one of some folders, or lies below one."""
    return target in folders or any(str(above) in folders for above in Path(target).parents)


def _is_walked(target: str, root: str, folder: str, glob: Glob | None) -> bool:
    """Tell whether the walk itself comes to a real path: it lies below its root, and the glob enters it."""
    if not _is_inside(target, {root}):
        return False
    names = Path(target).relative_to(root).parts
    paths = ("/".join([folder.rstrip("/"), *names[: depth + 1]]) for depth in range(len(names)))
    return glob is None or all(glob.enters(path) for path in paths)


def _leads_to_folder(link: str) -> bool:
    """Tell whether a link leads to a folder, over however many links."""
    try:
        return Path(os.path.realpath(link)).is_dir()
    except OSError:  # it may not be looked at
        return False
