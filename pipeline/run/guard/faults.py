"""Tells a fault of one unit, of a device and of the whole run from one another."""

import re
import sys
from asyncio import CancelledError
from collections.abc import Callable, Iterator

import pyarrow as pa

from pipeline.support.errors import ConfigError, RunError, described

Run = Callable[[pa.Table], pa.Table]

# After ISOLATE_AFTER deaths of its workers a unit runs in a separate process. After GIVE_UP_AFTER deaths it
# fails: its workers die although another process does the work.
ISOLATE_AFTER = 2
GIVE_UP_AFTER = 5

_END_THE_RUN = (ConfigError, RunError, KeyboardInterrupt, SystemExit, GeneratorExit, CancelledError)
# Names, since their libraries may not be installed: torch, torch.distributed, vLLM
_DEVICE_ERRORS = {"AcceleratorError", "DistBackendError", "EngineDeadError"}
_DEVICE_TEXT = re.compile(
    r"CUDA (driver )?error|cu(BLAS|DNN|SOLVER|SPARSE|FFT|RAND)\b[^\n]*error|"
    r"CU(BLAS|DNN|SOLVER|SPARSE)_STATUS_|NCCL (error|failure)|ncclUnhandledCudaError|HIP error|"
    r"ECC error|NVML|driver shutting down",
    re.IGNORECASE,
)
_CAUSES = 8  # how far a chain of exceptions is followed


class UnitFault(Exception):  # noqa: N818 - an event, handled where it happens
    """Says that a unit, or a part of it, did not get through a stage."""

    def error(self, stage: str) -> str:
        """Return the error of a row that does not get through the stage even alone."""
        raise NotImplementedError


class ProcessDied(UnitFault):
    """Says that the process has died; the message names the signal or the exit status."""

    def error(self, stage: str) -> str:
        """Name the stage and what its process died of."""
        return f"the worker of stage {stage} died of {self} on this sample alone"


class StageRaised(UnitFault):
    """Says that the stage raised an exception; the message is its type and its text."""

    def error(self, stage: str) -> str:
        """Name the stage and its exception."""
        return f"stage {stage} raised {self}"


class DeviceRaised(StageRaised):
    """Says that the stage raised an error of the device, in a separate process."""


class DeviceLost(Exception):  # noqa: N818 - an event, handled where it happens
    """Says that this process can use its GPU no more: CUDA repeats most errors until the process ends."""


class DeviceBroken(Exception):  # noqa: N818 - an event, handled where it happens
    """Says that a GPU is at fault, and no unit: it does not answer what was answered before."""


class NotStarted(RunError):  # noqa: N818 - an event, handled where it happens on a GPU
    """Says that a stage could not be made in a separate process; on a GPU the reason may pass."""


def ends_run(error: BaseException) -> bool:
    """Tell whether an exception concerns the run, and would meet any other unit as well."""
    ray = sys.modules.get("ray")
    return isinstance(error, _END_THE_RUN) or (ray is not None and isinstance(error, ray.exceptions.RayError))


def is_of_device(error: BaseException) -> bool:
    """Tell whether an exception comes from a GPU, its driver or its libraries.

    The exceptions that it came from count, too. Running out of memory is the unit's own error.
    """
    return not _is_out_of_memory(error) and any(
        any(kind.__name__ in _DEVICE_ERRORS for kind in type(link).__mro__)
        or (isinstance(link, RuntimeError) and _DEVICE_TEXT.search(str(link)) is not None)
        for link in _chain(error)
        if not _is_out_of_memory(link)
    )


def _is_out_of_memory(error: BaseException) -> bool:
    return any(kind.__name__ == "OutOfMemoryError" for kind in type(error).__mro__)


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield an exception and those that it came from."""
    link: BaseException | None = error
    for _ in range(_CAUSES):
        if link is None:
            return
        yield link
        link = link.__cause__ or link.__context__


def catching(stage: Run, *, on_gpu: bool = False) -> Run:
    """Wrap a stage: what it raises becomes StageRaised, unless it ends the run.

    Rust's panics are caught, too: tokenizers raise them, and they are no `Exception`.

    Args:
        on_gpu: an error of the device becomes DeviceLost.
    """

    def run(batch: pa.Table) -> pa.Table:
        try:
            return stage(batch)
        except BaseException as error:
            if ends_run(error):
                raise
            is_lost, text = on_gpu and is_of_device(error), described(error)
        # raised out here, it does not keep the tensors of the stage's frames alive
        raise DeviceLost(text) if is_lost else StageRaised(text)

    return run
