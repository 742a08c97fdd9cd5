"""Describes the machine that figures were measured on."""

import os
import platform
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

from pipeline.support.table import console

if TYPE_CHECKING:
    import torch


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


def machine(device: "torch.device | None") -> Machine:
    """Describe this machine, for the head of a benchmark; its GPU only if that is the `device` used.

    None: nothing was computed on a device.
    """
    import torch

    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "gpu": torch.cuda.get_device_name(device) if device and device.type == "cuda" else None,
        "load": os.getloadavg()[0],
        "python": platform.python_version(),
        "torch": version("torch"),
        "transformers": version("transformers"),
        "ray": version("ray"),
        "pyarrow": version("pyarrow"),
        "trimline": version("trimline"),
    }


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def show_machine(machine: Machine) -> None:
    """Print the machine that all tables below were measured on."""
    gpu = machine["gpu"] or "no GPU used"
    names = ("python", "torch", "transformers", "ray", "pyarrow", "trimline")
    versions = ", ".join(f"{name} {version}" for name, version in machine.items() if name in names)
    out = console()
    out.print(f"{machine['processor']}, {machine['cores']} cores, {machine['memory_gib']:g} GiB, {gpu}")
    out.print(f"{versions}; load {machine['load']:.2f} before the start")
