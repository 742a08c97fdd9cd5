"""What tests may take of this machine's memory."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

MIB = 1 << 20


@contextmanager
def at_most(room: int) -> Iterator[None]:
    """Fail if this process's memory peaks more than `room` bytes above where it is now."""
    reset = Path("/proc/self/clear_refs")
    try:
        reset.write_text("5")  # the peak starts anew
    except OSError:  # no Linux, or a sandbox: then the cases run all the same
        yield
        return
    before = memory()["VmRSS"]
    yield
    grown = memory()["VmHWM"] - before
    assert grown <= room, f"memory grew by {grown / MIB:.0f} MiB"


def memory() -> dict[str, int]:
    """What /proc says of this process's memory, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return {
        name: int(text.split()[0]) * 1024
        for name, text in (line.split(":", 1) for line in lines)
        if "kB" in text
    }
