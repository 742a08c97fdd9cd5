"""Devices, precision and threads of a stage's process."""

import os
import time

import pyarrow as pa
import torch


def torch_device(name: str) -> torch.device:
    """The device that `auto`, `cpu` or `cuda` stands for in this process."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def use_threads(threads: int | None) -> None:
    """Let torch use `threads` cores, or all: Ray would leave a process that books less than two only one."""
    torch.set_num_threads(threads or len(os.sched_getaffinity(0)))


def synchronized_time(device: torch.device) -> float:
    """Seconds on a monotonic clock, once the work queued on `device` is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def to_bytes(tokens_KD: torch.Tensor) -> bytes:
    """A tensor's elements row by row; bfloat16 goes as int16 bits, since numpy has none."""
    tokens_KD = tokens_KD.detach().to("cpu").contiguous()
    bits = tokens_KD.view(torch.int16) if tokens_KD.dtype == torch.bfloat16 else tokens_KD
    return bits.numpy().tobytes()


def from_bytes(buffer: pa.Buffer, dtype: torch.dtype, width: int) -> torch.Tensor:
    """The [K, width] tensor that `to_bytes` wrote, in memory of its own."""
    return torch.frombuffer(bytearray(buffer), dtype=dtype).view(-1, width)
