"""Limit how much memory a test may take."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

MIB = 1 << 20


@contextmanager
def at_most(room: int) -> Iterator[None]:
    """Fail if this process's memory peaks more than `room` bytes above its present size."""
    reset = Path("/proc/self/clear_refs")
    try:
        reset.write_text("5")  # reset the peak
    except OSError:  # not Linux, or a sandbox: run the block unmeasured
        yield
        return
    baseline = memory()["VmRSS"]
    yield
    grown = memory()["VmHWM"] - baseline
    assert grown <= room, f"memory grew by {grown / MIB:.0f} MiB"


def memory() -> dict[str, int]:
    """Read this process's memory from /proc, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return {
        name: int(text.split()[0]) * 1024
        for name, text in (line.split(":", 1) for line in lines)
        if "kB" in text
    }
