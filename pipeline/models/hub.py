"""Gets files of checkpoints from the model hub, or from its cache on this machine alone.

A hub id is `owner/name`, or `owner/name@revision` for a branch, a tag or a commit. A run names the commit of
each of its ids once (pipeline/run/pinning.py). Files of a commit never change: whoever has them asks nobody.
"""

import random
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, TypeVar

from pipeline.support.errors import ConfigError, RunError, first_line

_COMMIT = re.compile(r"[0-9a-f]{40}")
# Seconds between tries while the hub answers "too many requests" (429), or that it cannot answer (5xx). The
# library itself tries what it downloads five times, waiting as long as the hub says.
RETRY_S = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, *[60.0] * 6)
_MOST_S = 600.0  # from the first try to the start of the last

_HUB_ID = re.compile(r"(?P<name>[\w.-]+/[\w.-]+)(?:@(?P<revision>\w[\w.-]*(?:/\w[\w.-]*)*))?")
_Answer = TypeVar("_Answer")

_is_asked = True


class HubId(NamedTuple):
    """Names a repository of the hub, and a branch, a tag or a commit; no revision stands for `main`."""

    name: str
    revision: str | None = None

    def __str__(self) -> str:
        return self.name if self.revision is None else f"{self.name}@{self.revision}"

    @property
    def is_commit(self) -> bool:
        """Tell whether the revision is a commit, whose files never change."""
        return self.revision is not None and _COMMIT.fullmatch(self.revision) is not None


def hub_id(path: str) -> HubId | None:
    """Read a path as a hub id; None for a folder that exists, a `demo:` name, or anything else."""
    match = _HUB_ID.fullmatch(path)
    if match is None or path.startswith(".") or Path(path).expanduser().is_dir():
        return None
    return HubId(match["name"], match["revision"])


@contextmanager
def without_hub() -> Iterator[None]:
    """Within this context, take files from the hub's cache alone: no request leaves this machine."""
    global _is_asked
    before, _is_asked = _is_asked, False
    try:
        yield
    finally:
        _is_asked = before


def hub_folder(repository: HubId, patterns: list[str]) -> Path:
    """Return a local folder with the files of a repository that match; ConfigError if there is none.

    The hub is not asked for files of a commit that are all here. Of the processes of a machine that need the
    same commit, one asks and the others wait for it. Raises RunError if the hub is busy for some minutes.
    """
    with _explaining(repository):
        if not repository.is_commit or not _is_asked:
            return _snapshot(repository, patterns)
        if (folder := _complete(repository, patterns)) is not None:
            return folder
        with _turn(repository):
            return _complete(repository, patterns) or _snapshot(repository, patterns)


def hub_file(repository: HubId, file: str) -> Path:
    """Return a local copy of one file of a repository; ConfigError if there is none."""
    from huggingface_hub import hf_hub_download

    name, revision = repository

    def ask() -> str:
        return hf_hub_download(name, file, revision=revision, local_files_only=not _is_asked)

    with _explaining(repository):
        return Path(_patiently(ask))


def commit_of(repository: HubId) -> str:
    """Ask the hub, once, which commit a repository's revision is now.

    Without an answer it is the commit that the hub's cache on this machine last saw there. Raises ConfigError
    if there is none, either, or the hub has no such repository or revision.
    """
    if repository.is_commit:
        return str(repository.revision)
    with _explaining(repository):
        return _snapshot(repository, ["config.json"]).name


def _snapshot(repository: HubId, patterns: list[str]) -> Path:
    """Return the cache's folder of a commit, named as the commit; what is missing there is downloaded."""
    from huggingface_hub import snapshot_download

    name, revision = repository

    def ask() -> str:
        only_here = not _is_asked
        return snapshot_download(name, revision=revision, allow_patterns=patterns, local_files_only=only_here)

    return Path(_patiently(ask))


def _complete(repository: HubId, patterns: list[str]) -> Path | None:
    """Return the cache's folder of a commit if it has all files that match, else None.

    What belongs to a commit is in the list that the library keeps beside it. Without that list, as older
    versions left it, the hub has to be asked.
    """
    from huggingface_hub import snapshot_download

    try:
        from huggingface_hub import get_cached_repo_tree
        from huggingface_hub.errors import CachedRepoTreeNotFoundError
    except ImportError:  # an older version of the library
        return None
    name, revision = repository
    try:
        get_cached_repo_tree(name, revision=revision)
        return Path(
            snapshot_download(name, revision=revision, allow_patterns=patterns, local_files_only=True)
        )
    except (CachedRepoTreeNotFoundError, FileNotFoundError):
        return None


@contextmanager
def _turn(repository: HubId) -> Iterator[None]:
    """Let one process at a time in here for a commit, among all that use the hub's cache.

    Machines may share that cache. One of them then asks the hub, which `pipeline.support.turns` would not do.
    """
    from huggingface_hub import constants
    from huggingface_hub.utils import WeakFileLock  # type: ignore[attr-defined]  # its own __init__ lists it

    folder = Path(constants.HF_HUB_CACHE) / ".locks" / f"models--{repository.name.replace('/', '--')}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:  # a cache that can only be read: nothing is downloaded into it
        yield
        return
    with WeakFileLock(folder / f"trimline-{repository.revision}.lock"):
        yield


def _patiently(ask: Callable[[], _Answer]) -> _Answer:
    """Return what the hub answers, asking again for some minutes while it is busy or out of order."""
    until = time.monotonic() + _MOST_S
    for wait_s in (*RETRY_S, None):
        try:
            return ask()
        except (OSError, ValueError) as error:
            if wait_s is None or time.monotonic() > until or not _is_busy(_status_of(error)):
                raise
            time.sleep(wait_s * random.uniform(0.5, 1.5))  # nodes that were refused together come apart
    raise AssertionError("the last try returns or raises")


def _is_busy(status: int | None) -> bool:
    return status is not None and (status == 429 or status >= 500)


def _status_of(error: BaseException | None) -> int | None:
    """Return the HTTP status behind an exception: its own, or that of one that led to it."""
    while error is not None:
        status = getattr(getattr(error, "response", None), "status_code", None)
        if isinstance(status, int):
            return status
        error = error.__cause__ or error.__context__
    return None


@contextmanager
def _explaining(repository: HubId) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as error:  # the hub's exceptions all derive from these two
        status = _status_of(error)
        if not _is_asked:
            reason = (
                "this command does not ask the model hub, and its cache on this machine has no such model"
            )
        elif _is_busy(status):
            raise RunError(
                f"model {str(repository)!r}: the hub still answers {status} to every try; run the same "
                "command again later, set HF_TOKEN, or name a folder that holds the files"
            ) from error
        else:
            reason = f"the hub does not give it: {first_line(error)}"
        raise ConfigError(f"model: no folder {str(repository)!r}, and {reason}") from error
