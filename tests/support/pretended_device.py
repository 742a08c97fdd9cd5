"""Keeps the state of the pretended CUDA device: its memory, copies under way, and counts of waits."""

import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

_ROOT = Path(__file__).parents[2]
_OURS = tuple(f"{_ROOT / name}/" for name in ("trim", "pipeline", "jobs"))
_LIBRARY = "site-packages/transformers/"


@dataclass
class Counts:
    """Counts what the host did with the device; the counters' keys are lines of code with the operation.

    Attributes:
        waits: each time the host waited for the device: values read, blocking copies both ways, copies from
            memory that is not pinned, and synchronisations of device, streams and events.
        to_device, to_host: copies, blocking or not.
        operations: kernels, by their name alone.
    """

    waits: Counter[str] = field(default_factory=Counter)
    to_device: Counter[str] = field(default_factory=Counter)
    to_host: Counter[str] = field(default_factory=Counter)
    bytes_to_device: int = 0
    bytes_to_host: int = 0
    operations: Counter[str] = field(default_factory=Counter)

    def reset(self) -> None:
        """Begin to count anew."""
        self.__init__()  # type: ignore[misc]

    def __str__(self) -> str:
        parts = [f"{name} {counter.total()}" for name, counter in self._counters().items()]
        lines = [
            f"  {name} {count:3} {line}"
            for name, counter in self._counters().items()
            for line, count in counter.most_common()
        ]
        return "\n".join([", ".join(parts), *lines])

    def _counters(self) -> dict[str, Counter[str]]:
        return {"waits": self.waits, "to device": self.to_device, "to host": self.to_host}


@dataclass
class _Copy:
    """Holds a copy under way: what was read when it began, and the host's end of it."""

    place: int
    host: Tensor
    data: Tensor
    to_host: bool
    line: str


class Held:
    """Gives memory of the device back when it is gone, with the tensor that holds it."""

    def __init__(self, device: "Device", key: int) -> None:
        self._device, self._key = device, key

    def __del__(self) -> None:
        self._device.release(self._key)


class Device:
    """Holds the one device that there is; its work is one queue, whatever streams it was put into.

    Args:
        memory_bytes: more tensors than these raise torch.OutOfMemoryError.
        used_bytes: of them, what other processes hold.
        capability: the compute capability.
        name: of the device.
    """

    def __init__(self, memory_bytes: int, used_bytes: int, capability: tuple[int, int], name: str) -> None:
        self.memory_bytes, self.used_bytes = memory_bytes, used_bytes
        self.fraction = 1.0  # of the memory, that this process may take
        self.capability, self.name = capability, name
        self.counts = Counts()
        self.allocated = self.reserved = self.peak = self.peak_reserved = 0
        self._storages: dict[int, list[int]] = {}  # of each storage how many tensors share it, and its bytes
        self._pinned: dict[int, torch.UntypedStorage] = {}  # held, so that no other gets the address
        self._copies: list[_Copy] = []
        self.place = self.reached = 0  # of the queue: how long it is, and up to where it is known to be done

    # --- memory ---

    def hold(self, data: Tensor) -> "Held":
        """Count a tensor's memory until what is returned is gone; torch.OutOfMemoryError above the limit."""
        storage = data.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        entry = self._storages.get(key)
        if entry is None:
            room = min(self.memory_bytes - self.used_bytes, int(self.fraction * self.memory_bytes))
            if self.allocated + size > room:
                free = max(0, room - self.allocated)
                raise torch.OutOfMemoryError(
                    f"CUDA out of memory. Tried to allocate {size / 2**20:.2f} MiB. GPU 0 has a "
                    f"total capacity of {self.memory_bytes / 2**20:.2f} MiB of which {free / 2**20:.2f} MiB "
                    "is free."
                )
            entry = self._storages[key] = [0, size]
            self.allocated += size
            self.peak = max(self.peak, self.allocated)
            self.reserved = max(self.reserved, self.allocated)
            self.peak_reserved = max(self.peak_reserved, self.reserved)
        entry[0] += 1
        return Held(self, key)

    def release(self, key: int) -> None:
        """Give back one tensor's share of a storage."""
        entry = self._storages[key]
        entry[0] -= 1
        if entry[0] == 0:
            del self._storages[key]
            self.allocated -= entry[1]

    # --- the host's memory ---

    def pin(self, tensor: Tensor) -> Tensor:
        """Mark a host tensor's memory as pinned."""
        storage = tensor.untyped_storage()
        self._pinned[storage._cdata] = storage
        return tensor

    def is_pinned(self, tensor: Tensor) -> bool:
        """Tell whether copies from and to a host tensor can go on while the host does."""
        return tensor.untyped_storage()._cdata in self._pinned

    # --- copies and waits ---

    def copy_to_device(self, host: Tensor, data: Tensor, non_blocking: bool) -> None:
        """Count a copy whose result is `data`; until it is waited for, the host must leave its end alone."""
        line = line_of_ours()
        self.counts.to_device[line] += 1
        self.counts.bytes_to_device += data.numel() * data.element_size()
        if non_blocking and self.is_pinned(host):
            self._copies.append(_Copy(self.tick(), host, host.detach().clone(), False, line))
        else:
            self.wait("copy to device")

    def copy_to_host(self, data: Tensor, host: Tensor, non_blocking: bool) -> None:
        """Copy to the host's memory, which holds garbage until a copy that does not block is waited for."""
        line = line_of_ours()
        self.counts.to_host[line] += 1
        self.counts.bytes_to_host += data.numel() * data.element_size()
        with torch.inference_mode():
            if non_blocking:
                self._copies.append(
                    _Copy(self.tick(), host, data.detach().to(host.dtype, copy=True), True, line)
                )
                host.copy_(_garbage(self._copies[-1].data))
                if not self.is_pinned(host):
                    self.counts.waits[f"{line} copy to host that is not pinned"] += 1
            else:
                host.copy_(data)
                self.wait("copy to host")

    def tick(self) -> int:
        """Put something into the queue; returns its place."""
        self.place += 1
        return self.place

    def wait(self, what: str, place: int | None = None) -> None:
        """Let the host wait for the queue up to `place`, or for all of it; counts the wait."""
        self.counts.waits[f"{line_of_ours()} {what}"] += 1
        self.finish(self.place if place is None else place)

    def finish(self, place: int) -> None:
        """Complete the copies up to `place`; RuntimeError if the host changed one's source meanwhile."""
        self.reached = max(self.reached, place)
        done = [copy for copy in self._copies if copy.place <= place]
        self._copies = [copy for copy in self._copies if copy.place > place]
        with torch.inference_mode():
            for copy in done:
                if copy.to_host:
                    copy.host.copy_(copy.data)
                elif not torch.equal(copy.host.view(torch.uint8), copy.data.view(torch.uint8)):
                    raise RuntimeError(f"the host wrote into memory that was being copied at {copy.line}")


def _garbage(data: Tensor) -> Tensor:
    """Make what a host finds where a copy has not arrived: no number that was copied."""
    if data.dtype == torch.bool:
        return ~data
    return torch.full_like(data, torch.nan) if data.is_floating_point() else data.bitwise_not()


def line_of_ours() -> str:
    """Name the innermost line of the project on the stack, and that of transformers below it."""
    frame: Any = sys._getframe(1)
    library = ""
    while frame is not None:
        file: str = frame.f_code.co_filename
        if file.startswith(_OURS):
            return f"{file.removeprefix(f'{_ROOT}/')}:{frame.f_lineno}{library}"
        if not library and _LIBRARY in file:
            library = f" (transformers {file.split(_LIBRARY)[-1]}:{frame.f_lineno})"
        frame = frame.f_back
    return f"elsewhere{library}"
