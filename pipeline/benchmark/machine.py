"""What a figure was measured on."""

import os
import platform
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

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
