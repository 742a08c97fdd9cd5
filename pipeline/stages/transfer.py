"""Moves a batch's arrays to a device, and its results back, in one copy each way.

Nobody waits for a copy at once. The host's ends of the copies are pinned buffers that are used again. On a
CPU nothing is copied.
"""

import time
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

_BLOCK = 32 << 20  # bytes, the least that is allocated at a time
_ALIGNED = 64  # bytes, more than any dtype has


class Arena:
    """Lends pieces of pinned memory, and lends them again after `reset`.

    It keeps as much as the largest unit took, since memory takes long to pin.
    """

    def __init__(self) -> None:
        self._blocks: list[Tensor] = []
        self._block = self._used = 0

    def reset(self) -> None:
        """Take all pieces back; what is in them may be overwritten from now on."""
        self._block = self._used = 0

    def take(self, size: int) -> Tensor:
        """Lend `size` bytes, as a uint8 tensor."""
        while self._block < len(self._blocks):
            block = self._blocks[self._block]
            if self._used + size <= len(block):
                first, self._used = self._used, -(-(self._used + size) // _ALIGNED) * _ALIGNED
                return block[first : first + size]
            self._block, self._used = self._block + 1, 0
        self._blocks.append(torch.empty(max(_BLOCK, size), dtype=torch.uint8, pin_memory=True))
        return self.take(size)


class Fetch:
    """Brings tensors of one device to the host; all copies begin at once, and `wait` ends them all."""

    def __init__(self, device: torch.device, arena: Arena) -> None:
        self._device, self._arena = device, arena
        self._done: Any = None  # an event

    def start(self, parts: Sequence[Tensor]) -> list[Tensor]:
        """Begin to copy tensors that differ in their first dimension alone, in one copy.

        Returns the host's tensors, which hold nothing of use before `wait`. The device's may go at once. On a
        CPU they are the same tensors.
        """
        if self._device.type != "cuda" or not parts:
            return list(parts)
        joined = torch.cat([part.to(self._device) for part in parts])
        host = self._arena.take(joined.nbytes).view(joined.dtype).view(joined.shape)
        host.copy_(joined, non_blocking=True)
        return list(torch.split(host, [len(part) for part in parts]))

    def end(self) -> None:
        """Say that all copies have begun; what is queued on the device later is not waited for."""
        if self._device.type == "cuda":
            self._done = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._done.record()

    def wait(self) -> None:
        """Wait until all that was queued on the device before `end` is done."""
        if self._done is not None:
            self._done.synchronize()


class Staged:
    """Holds arrays of one batch in a host buffer, ready to be sent; see `Staging`."""

    def __init__(self, arrays: list[np.ndarray], buffer: Tensor | None = None, sent: Any = None) -> None:
        self.arrays, self.buffer, self.sent = arrays, buffer, sent


class Staging:
    """Gathers the arrays of a batch in pinned memory and sends them to a GPU in one copy.

    There are two buffers, so that another thread can fill one while the device reads the other.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._buffers: list[Tensor | None] = [None, None]
        self._sent: list[Any] = [None, None]  # events
        self._turn = 0

    def stage(self, arrays: list[np.ndarray]) -> Staged:
        """Copy arrays into the buffer whose turn it is, once what it held has been sent."""
        if self._device.type != "cuda":
            return Staged(arrays)
        turn, self._turn = self._turn, 1 - self._turn
        sent = self._sent[turn]
        if sent is not None and not sent.query():
            sent.synchronize()
        buffer = self._buffers[turn]
        size = sum(_padded(array.nbytes) for array in arrays)
        if buffer is None or len(buffer) < size:
            buffer = self._buffers[turn] = torch.empty(size, dtype=torch.uint8, pin_memory=True)
        bytes_of_buffer, first = buffer.numpy(), 0
        for array in arrays:
            bytes_of_buffer[first : first + array.nbytes] = (
                np.ascontiguousarray(array).reshape(-1).view(np.uint8)
            )
            first += _padded(array.nbytes)
        self._sent[turn] = sent = torch.cuda.Event()  # type: ignore[no-untyped-call]
        return Staged(arrays, buffer[:size], sent)

    def send(self, staged: Staged) -> list[Tensor]:
        """Copy staged arrays to the device; returns a tensor for each."""
        if staged.buffer is None:
            return [_tensor(array).to(self._device) for array in staged.arrays]
        there = staged.buffer.to(self._device, non_blocking=True)
        staged.sent.record()
        tensors, first = [], 0
        for array in staged.arrays:
            dtype = _tensor(array[:0]).dtype
            tensors.append(there[first : first + array.nbytes].view(dtype).view(array.shape))
            first += _padded(array.nbytes)
        return tensors


def _tensor(array: np.ndarray) -> Tensor:
    """Share an array's memory, which nobody may write into if it is Arrow's; torch would warn of that."""
    with warnings.catch_warnings(action="ignore", category=UserWarning):
        return torch.from_numpy(array)


def _padded(size: int) -> int:
    return -(-size // _ALIGNED) * _ALIGNED


def mark(device: torch.device) -> Any:
    """Mark this moment in the work of a device, without waiting for it; see `seconds_between`."""
    if device.type != "cuda":
        return time.perf_counter()
    event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
    event.record()
    return event


def seconds_between(begin: Any, end: Any) -> float:
    """Return the seconds between two marks; of a GPU's, the work before them must be done."""
    if isinstance(begin, float):
        return float(end - begin)
    return float(begin.elapsed_time(end)) / 1e3
