"""Runs torch's operations on the pretended CUDA device: on the CPU's numbers, by CUDA's rules."""

from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_map

from tests.support.pretended_device import Device
from tests.support.pretended_tensor import CUDA, PretendedTensor

aten = torch.ops.aten

# What the host can only know once the device is done.
_READS = {
    aten._local_scalar_dense.default: "item",
    aten.item.default: "item",
    aten.is_nonzero.default: "bool",
    aten.equal.default: "equal",
    aten.nonzero.default: "nonzero",
    aten.masked_select.default: "masked_select",
    aten._unique2.default: "unique",
    aten.unique_dim.default: "unique",
    aten.unique_consecutive.default: "unique",
    aten.bincount.default: "bincount",
    aten.repeat_interleave.Tensor: "repeat_interleave",
}
# CUDA takes indices from the host, by a copy that it waits for.
_INDEXING = {
    aten.index.Tensor,
    aten.index_put_.default,
    aten.index_put.default,
    aten._index_put_impl_.default,
    aten._unsafe_index.Tensor,
}
_MOVES = {aten.to.device, aten.to.dtype_layout, aten.to.other, aten._to_copy.default}


def run(device: Device, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Run one operation; raises RuntimeError if it mixes devices as CUDA would not allow."""
    if func in _MOVES:
        return _move(device, func, args, kwargs)
    if func is aten.copy_.default:
        return _copy(device, *args, **kwargs)
    if func in (aten.is_pinned.default, aten.pin_memory.default, aten._pin_memory.default):
        return _pinning(device, func, args[0])
    name = func.name() if hasattr(func, "name") else str(func)
    flat, _ = tree_flatten((args, kwargs))
    ours = [x for x in flat if isinstance(x, PretendedTensor)]
    target = kwargs.get("device")
    if not ours and not is_cuda(target):
        if not kwargs.get("pin_memory"):
            return func(*args, **kwargs)
        return device.pin(func(*args, **{**kwargs, "pin_memory": False}))
    device.counts.operations[name] += 1
    device.tick()
    if func is aten._fused_sdp_choice.default:
        return 0  # the kernel made of single operations
    if func in _READS:
        device.wait(_READS[func])
    if ours:
        _require_one_device(device, func, name, args, flat)
    if target is not None:
        kwargs = {**kwargs, "device": torch.device("cpu")}
    plain_args, plain_kwargs = tree_map(_plain, (args, kwargs))
    result = func(*plain_args, **plain_kwargs)
    if target is not None and not is_cuda(target):
        return result
    known = {id(tensor.data_on_cpu): tensor for tensor in ours}  # in place, or `out`

    def wrapped(x: Any) -> Any:
        return known[id(x)] if id(x) in known else PretendedTensor(x, device)

    return tree_map(
        lambda x: wrapped(x) if isinstance(x, Tensor) and not isinstance(x, PretendedTensor) else x, result
    )


def is_cuda(device: Any) -> bool:
    """Tell whether a device, its name or None is a CUDA device."""
    return device is not None and torch.device(device).type == "cuda"


def _plain(value: Any) -> Any:
    return value.data_on_cpu if isinstance(value, PretendedTensor) else value


def _require_one_device(device: Device, func: Any, name: str, args: tuple[Any, ...], flat: list[Any]) -> None:
    """Raise RuntimeError if an operation has tensors of both sides; scalars of the host are allowed."""
    hosts = [x for x in flat if isinstance(x, Tensor) and not isinstance(x, PretendedTensor) and x.dim()]
    if func in _INDEXING:
        if not isinstance(args[0], PretendedTensor):
            raise RuntimeError(
                f"{name}: indices should be either on cpu or on the same device as the indexed tensor (cpu)"
            )
        for index in args[1]:
            if isinstance(index, PretendedTensor) and index.dtype == torch.bool:
                device.wait("index of booleans")
            elif isinstance(index, Tensor) and not isinstance(index, PretendedTensor):
                device.copy_to_device(index, index, non_blocking=False)
        hosts = [x for x in hosts if all(x is not index for index in args[1])]
    if hosts:
        raise RuntimeError(
            f"{name}: Expected all tensors to be on the same device, but found at least two devices, cuda:0 "
            f"and cpu! (on the cpu: {[tuple(x.shape) for x in hosts]})"
        )


def _move(device: Device, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Copy a tensor to another device or dtype, or return it where nothing changes."""
    source, target, dtype, non_blocking, copy, memory_format = _move_arguments(func, args, kwargs)
    here = isinstance(source, PretendedTensor)
    there = here if target is None else is_cuda(target)
    if here == there and dtype in (None, source.dtype) and not copy:
        return source
    plain = _plain(source)
    keywords = {} if memory_format is None else {"memory_format": memory_format}
    made = aten._to_copy.default(plain, dtype=dtype or source.dtype, **keywords)
    if here == there:
        return PretendedTensor(made, device) if there else made
    device.tick()
    if there:
        result = PretendedTensor(made, device)
        device.copy_to_device(source, made, non_blocking)
        return result
    if non_blocking:
        device.pin(made)  # as torch makes it
    device.copy_to_host(made.clone(), made, non_blocking)
    return made


def _move_arguments(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, ...]:
    """Return source, device, dtype, non_blocking, copy and memory format of one of _MOVES."""
    names = {
        aten.to.device: ("self", "device", "dtype", "non_blocking", "copy", "memory_format"),
        aten.to.other: ("self", "other", "non_blocking", "copy", "memory_format"),
    }.get(func, ("self",))
    given = {**dict(zip(names, args, strict=False)), **kwargs}
    other = given.get("other")
    target, dtype = given.get("device"), given.get("dtype")
    if other is not None:
        target, dtype = other.device, other.dtype
    copy = given.get("copy", False) or func is aten._to_copy.default
    return (
        given["self"],
        target,
        dtype,
        bool(given.get("non_blocking", False)),
        copy,
        given.get("memory_format"),
    )


def _copy(device: Device, target: Tensor, source: Tensor, non_blocking: bool = False) -> Tensor:
    """Copy into a tensor, between the sides or on one of them."""
    to_device = isinstance(target, PretendedTensor) and not isinstance(source, PretendedTensor)
    to_host = isinstance(source, PretendedTensor) and not isinstance(target, PretendedTensor)
    if to_host:
        device.copy_to_host(_plain(source).expand_as(target), target, non_blocking)
        return target
    device.tick()
    _plain(target).copy_(_plain(source))
    if to_device and source.dim():
        device.copy_to_device(source, _plain(target), non_blocking)
    return target


def _pinning(device: Device, func: Any, tensor: Tensor) -> Any:
    """Answer is_pinned, or copy a host tensor to pinned memory."""
    if func is aten.is_pinned.default:
        return not isinstance(tensor, PretendedTensor) and device.is_pinned(tensor)
    if isinstance(tensor, PretendedTensor):
        raise RuntimeError(f"cannot pin '{CUDA}', only dense CPU tensors can be pinned")
    return tensor if device.is_pinned(tensor) else device.pin(tensor.clone())
