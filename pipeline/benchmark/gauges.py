"""What a figure was measured on."""

import os
import platform
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

from pipeline.support.table import console

VERSIONS = ("python", "torch", "transformers", "ray", "pyarrow", "trimline")


def machine() -> dict[str, Any]:
    """Processor, cores, memory, versions and how busy it is, for the head of a benchmark."""
    import torch

    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "load": os.getloadavg()[0],  # processes that wanted a core in the last minute: other people's work
        "python": platform.python_version(),
        **{name: version(name) for name in VERSIONS[1:]},
    }


def gemm_tflops(dtype: Any, side: int = 4096, rounds: int = 3) -> float:
    """The most that matrix products of this machine's CPU reach, in 10^12 operations a second."""
    import torch

    a, b = torch.randn(2, side, side).to(dtype)
    seconds = []
    for _ in range(rounds + 1):
        started = time.perf_counter()
        a @ b
        seconds.append(time.perf_counter() - started)
    return 2 * side**3 / min(seconds) / 1e12


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


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


def show_machine(machine: dict[str, Any]) -> None:
    """Print what all tables below were measured on."""
    gpu = machine["gpu"] or "no GPU"
    versions = ", ".join(f"{name} {machine[name]}" for name in VERSIONS)
    out = console()
    out.print(f"{machine['processor']}, {machine['cores']} cores, {machine['memory_gib']:g} GiB, {gpu}")
    out.print(f"{versions}; load {machine['load']:.2f} before the start")
