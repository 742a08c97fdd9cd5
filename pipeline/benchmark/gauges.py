"""Describes the machine that figures were measured on, and measures memory and peak speed."""

import os
import platform
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict, TypeVar

from pipeline.support.table import console

if TYPE_CHECKING:
    import torch

Result = TypeVar("Result")
_MIB = 2**20


class Machine(TypedDict):
    """Describes hardware, versions, and the load average of the last minute."""

    processor: str
    cores: int
    memory_gib: float
    gpu: str | None
    load: float
    python: str
    torch: str
    transformers: str
    ray: str
    pyarrow: str
    trimline: str


def machine() -> Machine:
    """Describe this machine, for the head of a benchmark."""
    import torch

    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "load": os.getloadavg()[0],
        "python": platform.python_version(),
        "torch": version("torch"),
        "transformers": version("transformers"),
        "ray": version("ray"),
        "pyarrow": version("pyarrow"),
        "trimline": version("trimline"),
    }


def gemm_tflops(dtype: "torch.dtype", side: int = 4096, rounds: int = 3) -> float:
    """Measure the peak of matrix products on this machine's CPU, in 10^12 operations a second."""
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


def peak_mib(work: Callable[[], Result]) -> tuple[float, Result]:
    """Measure how far a call raises this process's resident memory; returns MiB and the call's result."""
    status = Path("/proc/self/status")
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before = _status_kib(status, "VmRSS")
    result = work()
    return max(0.0, (_status_kib(status, "VmHWM") - before) * 1024 / _MIB), result


def _status_kib(file: Path, name: str) -> int:
    line = next(line for line in file.read_text().splitlines() if line.startswith(name))
    return int(line.split()[1])


def show_machine(machine: Machine) -> None:
    """Print the machine that all tables below were measured on."""
    gpu = machine["gpu"] or "no GPU"
    names = ("python", "torch", "transformers", "ray", "pyarrow", "trimline")
    versions = ", ".join(f"{name} {version}" for name, version in machine.items() if name in names)
    out = console()
    out.print(f"{machine['processor']}, {machine['cores']} cores, {machine['memory_gib']:g} GiB, {gpu}")
    out.print(f"{versions}; load {machine['load']:.2f} before the start")
