"""Defines the tensors of the pretended CUDA device: they say `cuda:0` and hold their numbers on the CPU."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from tests.support.pretended_device import Device

CUDA = torch.device("cuda", 0)
_READS = {"__float__", "__int__", "__bool__", "__index__", "__complex__", "__contains__", "item", "tolist"}


class PretendedTensor(Tensor):
    """Wraps a CPU tensor as one of the pretended device.

    Attributes:
        data_on_cpu: its numbers.
        owner: the device.
    """

    data_on_cpu: Tensor
    owner: "Device"

    @staticmethod
    def __new__(cls, data: Tensor, owner: "Device") -> "PretendedTensor":
        """Wrap a CPU tensor; raises torch.OutOfMemoryError if the device has no room for it."""
        assert not isinstance(data, PretendedTensor)
        held = owner.hold(data)
        with torch.inference_mode(data.is_inference()):  # a view of a parameter is none in inference mode
            tensor: PretendedTensor = torch.Tensor._make_wrapper_subclass(
                cls,
                data.size(),
                strides=data.stride(),
                storage_offset=data.storage_offset(),
                dtype=data.dtype,
                layout=data.layout,
                device=CUDA,
                requires_grad=False,
            )
        tensor.data_on_cpu, tensor.owner = data, owner
        tensor._held = held
        return tensor

    def __tensor_flatten__(self) -> tuple[list[str], "Device"]:
        """Say that this is a wrapper, whose parameters `Module.to` swaps, so that tied ones stay tied."""
        return ["data_on_cpu"], self.owner

    @staticmethod
    def __tensor_unflatten__(inner: dict[str, Tensor], owner: "Device", *_: Any) -> "PretendedTensor":
        return PretendedTensor(inner["data_on_cpu"], owner)

    def __repr__(self, **_: Any) -> str:  # type: ignore[override]
        return f"PretendedTensor({tuple(self.shape)}, {self.dtype})"

    @classmethod
    def __torch_function__(
        cls,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Do what torch's C++ would ask of a device before any operation is dispatched."""
        name = getattr(func, "__name__", "")
        first = args[0] if args else None
        if name in ("numpy", "__array__") and isinstance(first, PretendedTensor):
            raise TypeError(
                "can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() to copy the tensor to "
                "host memory first."
            )
        if name in ("__getitem__", "__setitem__"):
            return _indexed(name, *args)
        if isinstance(first, PretendedTensor):
            if name in _READS:
                first.owner.wait(name.strip("_"))
                return func(first.data_on_cpu, *(_plain(arg) for arg in args[1:]))
            if name == "__invert__":
                return PretendedTensor(~first.data_on_cpu, first.owner)
            if name == "nonzero" and not kwargs:
                first.owner.wait("nonzero")
                return PretendedTensor(first.data_on_cpu.nonzero(), first.owner)
            if name == "contiguous":
                made = first.data_on_cpu.contiguous()
                return first if made is first.data_on_cpu else PretendedTensor(made, first.owner)
            if name == "data_ptr":
                return first.data_on_cpu.data_ptr()
            if name == "__deepcopy__":
                made = PretendedTensor(first.data_on_cpu.clone(), first.owner)
                args[1][id(first)] = made
                return made
        with torch._C.DisableTorchFunctionSubclass():
            return func(*args, **(kwargs or {}))

    @classmethod
    def __torch_dispatch__(
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """See `tests.support.pretended_ops.run`."""
        from tests.support.pretended_ops import run

        owner = next(x for x in _flat((args, kwargs)) if isinstance(x, PretendedTensor)).owner
        return run(owner, func, args, kwargs or {})


def _plain(value: Any) -> Any:
    return value.data_on_cpu if isinstance(value, PretendedTensor) else value


def _flat(value: Any) -> list[Any]:
    from torch.utils._pytree import tree_flatten

    return tree_flatten(value)[0]


def _indexed(name: str, tensor: Tensor, index: Any, *value: Any) -> Any:
    """Read or write `tensor[index]`, with the waits that CUDA has for it."""
    entries = index if isinstance(index, tuple) else (index,)
    owner: Device = next(x for x in (tensor, *entries, *value) if isinstance(x, PretendedTensor)).owner
    for entry in entries:
        if isinstance(entry, PretendedTensor):
            if not isinstance(tensor, PretendedTensor) and entry.dim():
                raise RuntimeError(
                    "indices should be either on cpu or on the same device as the indexed tensor (cpu)"
                )
            if entry.dtype == torch.bool:
                owner.wait("index of booleans")
            elif entry.dim() == 0:
                owner.wait("index read")
        elif isinstance(tensor, PretendedTensor) and _is_list(entry):
            host = torch.as_tensor(entry)
            owner.copy_to_device(host, host, non_blocking=False)
    plain = tuple(_plain(entry) for entry in entries)
    where = plain if isinstance(index, tuple) else plain[0]
    owner.counts.operations[name] += 1
    if name == "__setitem__":
        _assign(tensor, where, value[0], owner)
        return None
    result = _plain(tensor)[where]
    return PretendedTensor(result, owner) if isinstance(tensor, PretendedTensor) else result


def _is_list(entry: Any) -> bool:
    """Tell whether an index is a list of numbers of the host, in any form."""
    return isinstance(entry, list) or (isinstance(entry, Tensor) and entry.dim() > 0)


def _assign(tensor: Tensor, where: Any, value: Any, owner: "Device") -> None:
    """Write into a part of a tensor; values from the other side are copied over."""
    plain = _plain(value)
    if isinstance(value, PretendedTensor) and not isinstance(tensor, PretendedTensor):
        owner.wait("copy to host")
        owner.counts.to_host["by assignment"] += 1
    elif isinstance(value, Tensor) and isinstance(tensor, PretendedTensor) and value is plain and value.dim():
        owner.copy_to_device(value, value, non_blocking=False)
    _plain(tensor)[where] = plain
