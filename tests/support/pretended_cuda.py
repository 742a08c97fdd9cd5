"""Pretends that there is a CUDA device: real numbers, computed on the CPU, and CUDA's rules around them.

Within `pretended_cuda()`
- tensors that are made on or moved to "cuda" are `PretendedTensor`s, and so is what is computed of them;
- what CUDA refuses raises: an operation on tensors of both devices, `.numpy()`, indices of another device;
- a copy with `non_blocking=True` to the host holds garbage until it is waited for, and the host must not
  write into pinned memory that is being copied;
- each wait of the host for the device is counted with the line of ours that waited, and so are copies;
- memory is counted, and too much of it raises torch.OutOfMemoryError.

Bits are the CPU's. Speed, CUDA's kernels, graphs and libraries are not pretended.
"""

import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from tests.support.pretended_device import Counts, Device
from tests.support.pretended_ops import is_cuda, run
from tests.support.pretended_tensor import CUDA


@contextmanager
def pretended_cuda(
    memory_bytes: int = 80 << 30,
    capability: tuple[int, int] = (9, 0),
    *,
    used_bytes: int = 0,
    name: str = "NVIDIA H100",
) -> Iterator[Counts]:
    """Pretend within the block that this process has a CUDA device; yields the counts of its use.

    Threads that are started within the block see the device, too; those started before do not.

    Args:
        memory_bytes: of the device; tensors beyond it raise torch.OutOfMemoryError.
        capability: its compute capability.
        used_bytes: what other processes hold of its memory.
        name: of the device.
    """
    torch._C._ensureCUDADeviceGuardSet()  # a guard that does nothing, where torch has no CUDA
    device = Device(memory_bytes, used_bytes, capability, name)
    start = threading.Thread.run

    def run_thread(thread: threading.Thread) -> None:
        with _modes(device):
            start(thread)

    saved: list[tuple[Any, str, Any]] = []
    changes = [(torch.cuda, name, value) for name, value in _cuda_functions(device).items()]
    changes += [
        (torch.accelerator, name, value)
        for name, value in _cuda_functions(device).items()
        if hasattr(torch.accelerator, name)
    ]
    changes.append((threading.Thread, "run", run_thread))
    changes.append((torch, "_has_compatible_shallow_copy_type", lambda *_: False))  # in `Module.to`
    try:
        for place, attribute, value in changes:
            saved.append((place, attribute, getattr(place, attribute)))
            setattr(place, attribute, value)
        with _modes(device):
            yield device.counts
    finally:
        for place, attribute, value in reversed(saved):
            setattr(place, attribute, value)


def install_pretended_cuda(**options: Any) -> Counts:
    """Pretend for the rest of this process, as a worker's set-up does; see `pretended_cuda`."""
    return _INSTALLED.enter_context(pretended_cuda(**options))


_INSTALLED = ExitStack()


@contextmanager
def _modes(device: Device) -> Iterator[None]:
    """Enter this thread into the pretence; without gradients, for which torch would ask the device itself."""
    with torch.no_grad(), _Operations(device), _Names():
        yield


class _Operations(TorchDispatchMode):
    """Takes the operations that have no PretendedTensor yet, such as those that make tensors."""

    def __init__(self, device: Device) -> None:
        super().__init__()
        self._device = device

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return run(self._device, func, args, kwargs or {})


class _Names(TorchFunctionMode):
    """Gives `cuda` its index, which torch would ask of a device that is not there."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.device:
            return func(*args, **kwargs)
        if func is Tensor.cuda:
            non_blocking = kwargs.get("non_blocking", args[2] if len(args) > 2 else False)
            return Tensor.to(args[0], CUDA, non_blocking=non_blocking)
        if func in (torch.tensor, torch.as_tensor) and is_cuda(kwargs.get("device")):
            made = func(*args, **{key: value for key, value in kwargs.items() if key != "device"})
            return Tensor.to(made, CUDA)
        if func is torch.tensor and kwargs.get("pin_memory"):
            return func(*args, **{**kwargs, "pin_memory": False}).pin_memory()

        def named(value: Any) -> Any:
            index_missing = isinstance(value, torch.device) and value.type == "cuda"
            return CUDA if index_missing or (isinstance(value, str) and value == "cuda") else value

        return func(*map(named, args), **{key: named(value) for key, value in kwargs.items()})


def _cuda_functions(device: Device) -> dict[str, Any]:
    """Make what replaces the functions of torch.cuda."""

    class Event:
        """Marks a place in the device's queue; see torch.cuda.Event."""

        def __init__(self, enable_timing: bool = False, **_: Any) -> None:
            self._timing, self._place, self._time = enable_timing, -1, 0.0

        def record(self, stream: object = None) -> None:
            self._place, self._time = device.tick(), time.perf_counter()

        def wait(self, stream: object = None) -> None: ...

        def query(self) -> bool:
            device.finish(self._place)
            return True

        def synchronize(self) -> None:
            device.wait("event", self._place)

        def elapsed_time(self, end: Any) -> float:
            if not (self._timing and end._timing) or min(self._place, end._place) < 0:
                raise ValueError("Both events must be recorded, with enable_timing=True")
            if max(self._place, end._place) > device.reached:
                raise RuntimeError("CUDA error: device not ready")
            return float(end._time - self._time) * 1000

    class Stream:
        """Is one of the device's streams, all of which are one queue; see torch.cuda.Stream."""

        def __init__(self, *_: Any, **__: Any) -> None: ...

        def synchronize(self) -> None:
            device.wait("stream")

        def query(self) -> bool:
            device.finish(device.place)
            return True

        def record_event(self, event: Any = None) -> Any:
            event = event or Event()
            event.record()
            return event

        def wait_stream(self, stream: object) -> None: ...

        def wait_event(self, event: object) -> None: ...

    def empty_cache() -> None:
        device.reserved = device.allocated

    def reset_peak_memory_stats(_: object = None) -> None:
        device.peak, device.peak_reserved = device.allocated, device.reserved

    def mem_get_info(_: object = None) -> tuple[int, int]:
        return max(0, device.memory_bytes - device.used_bytes - device.reserved), device.memory_bytes

    def set_per_process_memory_fraction(fraction: float, _: object = None) -> None:
        device.fraction = fraction

    stream = Stream()
    major, minor = device.capability
    properties = SimpleNamespace(
        name=device.name,
        total_memory=device.memory_bytes,
        major=major,
        minor=minor,
        multi_processor_count=132,
    )
    return {
        "_lazy_init": lambda: None,
        "is_available": lambda: True,
        "is_initialized": lambda: True,
        "is_bf16_supported": lambda *_, **__: major >= 8,
        "device_count": lambda: 1,
        "current_device": lambda: 0,
        "set_device": lambda _: None,
        "device": lambda _: nullcontext(),
        "synchronize": lambda _=None: device.wait("synchronize"),
        "Event": Event,
        "Stream": Stream,
        "current_stream": lambda _=None: stream,
        "default_stream": lambda _=None: stream,
        "stream": lambda _: nullcontext(),
        "set_stream": lambda _: None,
        "mem_get_info": mem_get_info,
        "memory_allocated": lambda _=None: device.allocated,
        "max_memory_allocated": lambda _=None: device.peak,
        "memory_reserved": lambda _=None: device.reserved,
        "max_memory_reserved": lambda _=None: device.peak_reserved,
        "reset_peak_memory_stats": reset_peak_memory_stats,
        "empty_cache": empty_cache,
        "set_per_process_memory_fraction": set_per_process_memory_fraction,
        "get_device_name": lambda _=None: device.name,
        "get_device_capability": lambda _=None: device.capability,
        "get_device_properties": lambda _=None: properties,
        "get_rng_state": lambda _=None: torch.get_rng_state(),
        "set_rng_state": lambda state, _=None: torch.set_rng_state(state),
        "manual_seed": lambda _: None,
        "manual_seed_all": lambda _: None,
    }
