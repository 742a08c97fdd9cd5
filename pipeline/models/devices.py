"""Sets devices and threads of a stage's process, and serialises tensors."""

import os
import socket
import time

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from pipeline.support.errors import ConfigError


def torch_device(name: str) -> torch.device:
    """Return the device that `auto`, `cpu` or `cuda` means in this process.

    Raises:
        ConfigError: torch sees no GPU for `cuda`, as on a node that joined the cluster after the others.
    """
    is_there = torch.cuda.is_available()
    if name == "cuda" and not is_there:
        raise ConfigError(
            f"device=cuda: torch {torch.__version__} sees no GPU on the node {socket.gethostname()}"
        )
    return torch.device("cuda" if is_there and name != "cpu" else "cpu")


def device_name(device: torch.device) -> str:
    """Name a device for people: the GPU as its driver does, or `CPU`."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"


def use_threads(threads: int | None) -> None:
    """Let torch use `threads` cores, or all; Ray sets one for a process that books less than two."""
    torch.set_num_threads(threads or len(os.sched_getaffinity(0)))


def synchronized_time(device: torch.device) -> float:
    """Wait for the work queued on `device`; returns seconds on a monotonic clock."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def no_tf32() -> None:
    """Let CUDA multiply float32 numbers as such, in convolutions, too, where torch's default rounds them."""
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False


def as_bytes(host: torch.Tensor) -> NDArray[np.uint8]:
    """View a tensor of the host as its bytes, row by row (numpy has no bfloat16); copies strided ones."""
    return host.detach().reshape(-1).view(torch.uint8).numpy()


def from_bytes(buffer: pa.Buffer, dtype: torch.dtype, width: int) -> torch.Tensor:
    """Copy the [K, width] tensor out of a buffer with the bytes that `as_bytes` shows."""
    return torch.frombuffer(bytearray(buffer), dtype=dtype).view(-1, width)
