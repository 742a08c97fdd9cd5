"""Lets one process of this machine at a time do what costs much memory, such as loading weights."""

import fcntl
import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from pipeline.support.cache import private_cache


@contextmanager
def turn(name: str) -> Iterator[None]:
    """Wait until no other process of this machine is in the context of this name, then stay in it.

    The lock is a file of the user's cache with the machine's name; the system releases it when its holder
    ends, however that happens. Where the cache's file system has no locks nobody waits, so that what is done
    in the context must be right without it, too.
    Raises ConfigError as `private_cache`.
    """
    folder = private_cache() / ".turns"
    folder.mkdir(mode=0o700, exist_ok=True)
    descriptor = os.open(folder / f"{socket.gethostname()}-{name}", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        except OSError as error:
            logging.getLogger(__name__).warning(
                "%s: this file system has no locks (%s): processes of one machine do not take turns",
                folder,
                error.strerror,
            )
        yield
    finally:
        with suppress(OSError):  # closing alone would leave it to processes that were forked meanwhile
            fcntl.flock(descriptor, fcntl.LOCK_UN)
        os.close(descriptor)
