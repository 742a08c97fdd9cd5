"""How much memory a piece of work takes at its peak."""

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

_MIB = 2**20
Result = TypeVar("Result")


def peak_mib(work: Callable[[], Result]) -> tuple[float, Result]:
    """How far a call raises this process's resident memory above where it began, and what it returns."""
    status = Path("/proc/self/status")
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before = _status_kib(status, "VmRSS")
    result = work()
    return max(0.0, (_status_kib(status, "VmHWM") - before) * 1024 / _MIB), result


def _status_kib(file: Path, name: str) -> int:
    line = next(line for line in file.read_text().splitlines() if line.startswith(name))
    return int(line.split()[1])
