"""Times work on the device that a benchmark computes on, and measures that device's memory and peak speed."""

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch

from pipeline.models.devices import synchronized_time

Result = TypeVar("Result")
_MIB = 2**20
_LEAST_S = 0.02  # a shorter measurement is repeated: launches and the clock would count


def timed(work: Callable[[], object], device: torch.device) -> float:
    """Measure the seconds of a call, until the device has done all that it was given."""
    started = synchronized_time(device)
    work()
    return synchronized_time(device) - started


def gemm_tflops(dtype: torch.dtype, device: torch.device, side: int = 4096, rounds: int = 2) -> float:
    """Measure the device's peak of matrix products, in 10^12 operations a second.

    The best of `rounds`; each multiplies square matrices of `side` as often as fills 20 ms.
    """
    a, b = torch.randn(2, side, side).to(device, dtype)

    def multiply(times: int) -> float:
        def products() -> None:
            for _ in range(times):
                a @ b

        return timed(products, device)

    times, seconds = 1, multiply(1)
    while (seconds := multiply(times)) < _LEAST_S:
        times *= 2
    best = min(seconds, *(multiply(times) for _ in range(rounds)))
    return 2 * side**3 * times / best / 1e12


def peak_mib(work: Callable[[], Result], device: torch.device) -> tuple[float, Result]:
    """Measure how far a call raises what this process holds of the device's memory.

    Returns MiB and the call's result. On a CPU it is resident memory, on a GPU what torch has allocated.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        result = work()
        torch.cuda.synchronize(device)
        return max(0, torch.cuda.max_memory_allocated(device) - before) / _MIB, result
    status = Path("/proc/self/status")
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    resident = _status_kib(status, "VmRSS")
    result = work()
    return max(0.0, (_status_kib(status, "VmHWM") - resident) * 1024 / _MIB), result


def _status_kib(file: Path, name: str) -> int:
    line = next(line for line in file.read_text().splitlines() if line.startswith(name))
    return int(line.split()[1])
