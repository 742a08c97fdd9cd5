"""Test which exceptions are a device's, and which a unit's."""

import pyarrow as pa
import pytest
import torch

from pipeline.run.guard.faults import DeviceLost, StageRaised, catching, is_of_device


class EngineDeadError(Exception):
    """As vLLM's."""


def from_a_device() -> BaseException:
    """Make an error of a plug-in that hides one of the device."""
    try:
        try:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        except RuntimeError as error:
            raise ValueError("my engine has failed") from error
    except ValueError as error:
        return error


OF_DEVICES = [
    torch.AcceleratorError("CUDA error: uncorrectable ECC error encountered"),
    RuntimeError("CUDA error: device-side assert triggered\nCUDA kernel errors might be"),
    RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"),
    RuntimeError("CUDA driver error: unknown error"),
    RuntimeError("NCCL Error 1: unhandled cuda error"),
    EngineDeadError("EngineCore encountered an issue"),
    from_a_device(),
]
OF_UNITS = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    RuntimeError("The size of tensor a (3) must match the size of tensor b (4)"),
    ValueError("the word CUDA error in a text"),
    KeyError("not in my table"),
    MemoryError(),
]


@pytest.mark.parametrize("error", OF_DEVICES, ids=lambda error: str(error)[:20])
def test_an_error_of_a_device_is_no_units_on_a_gpu(error):
    def stage(_: pa.Table) -> pa.Table:
        raise error

    assert is_of_device(error)
    with pytest.raises(DeviceLost):
        catching(stage, on_gpu=True)(pa.table({}))
    with pytest.raises(StageRaised):  # on a CPU there is no such thing
        catching(stage)(pa.table({}))


@pytest.mark.parametrize("error", OF_UNITS, ids=lambda error: type(error).__name__)
def test_all_other_errors_are_the_units(error):
    assert not is_of_device(error)
