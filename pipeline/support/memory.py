"""Measures the free memory, limits what some code may allocate, and keeps what was freed for the next use."""

import ctypes
import mmap
import os
import platform
import resource
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa

_STATM = Path("/proc/self/statm")
_GROUP_V2 = {"limit": "memory.max", "used": "memory.current", "cache": "file"}
_GROUP_V1 = {"limit": "memory.limit_in_bytes", "used": "memory.usage_in_bytes", "cache": "total_cache"}

# Arrow's allocator may reserve all of 1 GiB at once; threads that start then need some more
_BESIDE_BYTES = 32 << 20

# The limit is the process's: one thread at a time has it, or one would lift it while another still reads.
_LIMIT = threading.RLock()
os.register_at_fork(before=_LIMIT.acquire, after_in_parent=_LIMIT.release, after_in_child=_LIMIT.release)


# Names and numbers of mallopt(3). A block above the first is mapped anew each time; memory above the second
# that is free at the heap's end goes back to the system.
_M_MMAP_THRESHOLD, _M_TRIM_THRESHOLD = -3, -1
_LARGEST_KEPT, _MOST_FREE = 1 << 30, (1 << 31) - 1  # bytes
_LARGEST_OF_OLD = 32 << 20  # what a glibc allows that refuses more


def keep_freed_memory() -> None:
    """Let large blocks that the main thread frees stay in the process, for the next ones of the same size.

    By itself glibc maps every block above 32 MiB anew, and the kernel clears its pages one by one. A vision
    tower makes some ten such blocks in each layer. On two cores, in batches of 16 in bfloat16, ViT-L/14-336
    took 0.46 s an image with that, and 0.31 s without it; a language model of 1B took a sixth less, and its
    process 5 % more memory at the most. Another C library, or a preloaded allocator, is left alone.
    """
    if platform.libc_ver()[0] == "glibc":
        library = ctypes.CDLL(None)
        if not library.mallopt(_M_MMAP_THRESHOLD, _LARGEST_KEPT):
            library.mallopt(_M_MMAP_THRESHOLD, _LARGEST_OF_OLD)
        library.mallopt(_M_TRIM_THRESHOLD, _MOST_FREE)


@contextmanager
def at_most(room: int) -> Iterator[None]:
    """Limit new allocations to some `room` bytes while the context is open; beyond it they raise MemoryError.

    It guards libraries that allocate whatever hostile input asks for; they may raise their own error instead.
    The limit holds for the whole process and counts private memory, not Ray's shared store. Keep it short and
    large, so that one huge allocation fails and not the small ones of other threads. Other threads that want
    a limit wait. What a process holds of freed memory (`keep_freed_memory`) may be taken besides. Linux only;
    elsewhere nothing is limited.
    """
    if not _STATM.is_file():
        yield
        return
    with _LIMIT:
        pa.allocate_buffer(
            1
        )  # Arrow's allocator reserves memory on its first use, which must not take the room
        soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
        ceiling = int(_STATM.read_text().split()[5]) * mmap.PAGESIZE + room + _BESIDE_BYTES
        limits = [limit for limit in (soft, hard) if limit != resource.RLIM_INFINITY]
        try:
            resource.setrlimit(resource.RLIMIT_DATA, (min([ceiling, *limits]), hard))
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


def available(proc: Path = Path("/proc"), cgroups: Path = Path("/sys/fs/cgroup")) -> int | None:
    """Return the bytes that this process may still allocate: the machine's, or a control group's, if less.

    A control group's page cache counts as free. None where Linux's files do not exist.
    """
    limits = [*_of_machine(proc), *_of_groups(proc, cgroups)]
    return min(limits) if limits else None


def _of_machine(proc: Path) -> Iterator[int]:
    file = proc / "meminfo"
    for line in file.read_text().splitlines() if file.is_file() else ():
        if line.startswith("MemAvailable:"):
            yield int(line.split()[1]) * 1024


def _of_groups(proc: Path, cgroups: Path) -> Iterator[int]:
    """Yield the free bytes of each limited control group of the process, up to the root; versions 2 and 1."""
    file = proc / "self" / "cgroup"
    for line in file.read_text().splitlines() if file.is_file() else ():
        _, controllers, name = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        root = cgroups / "memory" if controllers else cgroups
        names = _GROUP_V1 if controllers else _GROUP_V2
        path = Path(name.lstrip("/"))
        for group in (root / part for part in (path, *path.parents)):
            limit, used = (group / names[key] for key in ("limit", "used"))
            if limit.is_file() and used.is_file() and (text := limit.read_text().strip()) != "max":
                cache = _numbers(group / "memory.stat").get(names["cache"], 0)
                yield max(0, int(text) - int(used.read_text()) + cache)


def _numbers(file: Path) -> dict[str, int]:
    lines = file.read_text().splitlines() if file.is_file() else []
    return {name: int(number) for name, number in (line.split() for line in lines)}
