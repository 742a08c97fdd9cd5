"""A ceiling on what some code may take: for libraries that take whatever hostile input tells them to."""

import mmap
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_STATM = Path("/proc/self/statm")


@contextmanager
def at_most(room: int) -> Iterator[None]:
    """Within this, memory beyond `room` bytes above what is taken now is refused: MemoryError, or what the
    library makes of it.

    The limit is the process's, as is what counts: private memory, not Ray's shared store. It is held for as
    short as possible, and it is large: what fails is the one huge request, not the small ones of other
    threads. Only Linux has it; elsewhere nothing is limited.
    """
    if not _STATM.is_file():
        yield
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    ceiling = int(_STATM.read_text().split()[5]) * mmap.PAGESIZE + room
    limits = [limit for limit in (soft, hard) if limit != resource.RLIM_INFINITY]
    resource.setrlimit(resource.RLIMIT_DATA, (min([ceiling, *limits]), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))
