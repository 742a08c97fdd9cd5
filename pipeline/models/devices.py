"""Sets devices and threads of a stage's process, and serialises tensors."""

import os
import socket
import time

import pyarrow as pa
import torch

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


def to_bytes(tokens_KD: torch.Tensor) -> bytes:
    """Serialise a tensor row by row; bfloat16 as int16 bits, since numpy has no bfloat16."""
    tokens_KD = tokens_KD.detach().to("cpu").contiguous()
    bits = tokens_KD.view(torch.int16) if tokens_KD.dtype == torch.bfloat16 else tokens_KD
    return bits.numpy().tobytes()


def from_bytes(buffer: pa.Buffer, dtype: torch.dtype, width: int) -> torch.Tensor:
    """Copy the [K, width] tensor that `to_bytes` wrote out of a buffer."""
    return torch.frombuffer(bytearray(buffer), dtype=dtype).view(-1, width)
