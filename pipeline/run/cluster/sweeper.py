"""Removes what a local Ray cluster leaves behind, in a process of its own that outlives the run.

The process waits until the run has ended, however it did, ends Ray's processes and deletes their folder.
Before that it does the same for folders of runs whose own sweeper was killed. It imports the standard library
alone, so that it starts in some tens of milliseconds.
"""

import contextlib
import fcntl
import os
import shutil
import signal
import stat
import sys
import time
from collections.abc import Iterator
from pathlib import Path

PREFIX = "trimline-ray-"
LOCK = "lock"  # locked as long as the run or its sweeper lives
_PATIENCE_S = 3.0  # in which Ray's processes may end by themselves
_MOST_S = 20.0
_UNLOCKED_S = 60.0  # a folder without a lock is older than this if its maker was killed
_LOOK_EVERY_S = 0.1


def sweep_after_run(folder: Path, logs: str | None) -> None:
    """Sweep what is abandoned, wait for the end of standard input, then sweep this folder.

    Args:
        logs: folder to which Ray's logs are copied first.
    """
    run = os.getppid()
    with contextlib.suppress(OSError):  # another sweeper was first, or the place cannot be listed
        for other in abandoned(folder.parent):
            sweep(other)
    sys.stdin.buffer.read()
    sweep(folder, spared=run, logs=logs)


def abandoned(place: Path) -> Iterator[Path]:
    """Yield this user's folders whose run and sweeper are dead; each stays locked while it is looked at."""
    for entry in os.scandir(place):
        if not entry.name.startswith(PREFIX):
            continue
        found = entry.stat(follow_symlinks=False)
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
            continue
        try:
            lock = os.open(Path(entry.path, LOCK), os.O_RDWR | os.O_NOFOLLOW)
        except OSError:
            if found.st_mtime < time.time() - _UNLOCKED_S:
                yield Path(entry.path)
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield Path(entry.path)
        except BlockingIOError:
            pass
        finally:
            os.close(lock)


def sweep(folder: Path, spared: int = 0, logs: str | None = None) -> None:
    """End the processes that write into a folder, and delete it.

    Args:
        spared: a process that is left alone.
        logs: see `sweep_after_run`.
    """
    began = time.monotonic()
    while (alive := _writers(folder) - {spared}) and time.monotonic() < began + _MOST_S:
        if time.monotonic() > began + _PATIENCE_S:
            for process in alive:
                _kill(process)
        time.sleep(_LOOK_EVERY_S)
    if logs is not None:
        for found in folder.glob("*/session_2*/logs"):
            with contextlib.suppress(OSError):  # no room, or no right to write there
                _keep(found, Path(logs) / found.parent.name)
    shutil.rmtree(folder, ignore_errors=True)


def _keep(logs: Path, to: Path) -> None:
    """Copy Ray's logs; Ray's folders are open to all users, the copy is closed to them."""
    to.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        shutil.copytree(logs, to, dirs_exist_ok=True)
    finally:
        to.chmod(0o700)


def _writers(folder: Path) -> set[int]:
    """List the processes that have a file below a folder open for writing: all of Ray's have their logs."""
    within = f"{folder}/"
    found = {int(entry.name) for entry in os.scandir("/proc") if entry.name.isdigit()}
    return {process for process in found - {os.getpid()} if _writes(process, within)}


def _writes(process: int, within: str) -> bool:
    with contextlib.suppress(OSError):  # it has ended, or is another user's
        for entry in os.scandir(f"/proc/{process}/fd"):
            # the mode of such a link tells how the file was opened
            is_written = entry.stat(follow_symlinks=False).st_mode & stat.S_IWUSR
            if is_written and str(Path(entry.path).readlink()).startswith(within):
                return True
    return False


def _kill(process: int) -> None:
    with contextlib.suppress(OSError):
        os.kill(process, signal.SIGKILL)


if __name__ == "__main__":
    sweep_after_run(Path(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else None)
