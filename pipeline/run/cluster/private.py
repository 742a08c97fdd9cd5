"""Gives a local Ray cluster a folder that only this user can enter, and that goes when the run has ended."""

import atexit
import contextlib
import fcntl
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from pipeline.run.cluster import sweeper
from pipeline.support.errors import ConfigError

# Ray puts Unix sockets into its session's folder, and the system takes at most 107 bytes as a socket's path.
_SESSION = "session_2026-11-29_08-10-10_123456_1234567/sockets/plasma_store"
_LONGEST_PLACE = 107 - len(f"/{sweeper.PREFIX}xxxxxxxx/r/{_SESSION}")
_END_S = 30.0


class PrivateFolder:
    """Holds the folder for everything that Ray keeps, until the process ends or `remove` is called.

    Ray opens the folder that it is given to all users, so that one lies within another that is closed. A
    process of its own (`sweeper`) removes both, and Ray's processes, once this process has ended.

    Args:
        logs: folder to which the sweeper copies Ray's logs first.

    Attributes:
        path: the folder to give Ray.

    Raises:
        ConfigError: Ray's folder or that of the logs cannot be made.
    """

    def __init__(self, logs: str | None = None) -> None:
        place = _place()
        kept = [_folder_for_logs(logs)] if logs else []
        try:
            home = Path(tempfile.mkdtemp(prefix=sweeper.PREFIX, dir=place))
        except OSError as error:
            raise ConfigError(
                f"{place}: Ray's folder cannot be made there ({error.strerror}); name another with RAY_TMPDIR"
            ) from None
        self.path = str(home / "r")
        unnamed = home / f"{sweeper.LOCK}.new"
        lock = os.open(unnamed, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)
        fcntl.flock(lock, fcntl.LOCK_EX)
        unnamed.rename(home / sweeper.LOCK)
        self._sweeper = subprocess.Popen(
            [sys.executable, "-I", "-S", sweeper.__file__, str(home), *kept],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=(lock,),
            start_new_session=True,  # Ctrl-C in a terminal is not meant for it
        )
        self._lock = lock
        atexit.register(self.remove)

    def remove(self) -> None:
        """Stop Ray, and wait until its processes and the folder are gone."""
        atexit.unregister(self.remove)
        ray = sys.modules.get("ray")
        if ray is not None and ray.is_initialized():
            ray.shutdown()
        assert self._sweeper.stdin is not None
        self._sweeper.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._sweeper.wait(_END_S)
        os.close(self._lock)


def _folder_for_logs(named: str) -> str:
    folder = Path(named).resolve()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"cluster.logs={named}: {error.strerror}") from None
    if not os.access(folder, os.W_OK | os.X_OK):
        raise ConfigError(f"cluster.logs={named}: the folder cannot be written")
    return str(folder)


def _place() -> str:
    named = os.environ.get("RAY_TMPDIR")
    if named:
        place = Path(named).resolve()
        if not place.is_dir() or len(os.fsencode(place)) > _LONGEST_PLACE:
            raise ConfigError(
                f"RAY_TMPDIR={named}: no folder, or its path has more than {_LONGEST_PLACE} bytes"
            )
        return str(place)
    usual = os.path.realpath(tempfile.gettempdir())  # the sweeper compares with what the system says
    return usual if len(os.fsencode(usual)) <= _LONGEST_PLACE else "/tmp"
