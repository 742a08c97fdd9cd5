"""Ends vLLM's engine process together with the process that started it.

On GPUs the engine runs in a process of its own, so that the threads that prepare prompts do not hold up the
one that feeds the GPU. If that process outlived a killed actor, it would keep the GPU's memory for ever.
vLLM makes an executor first of all in that process; those here ask the system for a signal at the parent's
end. With tensor parallelism vLLM's worker processes end by themselves once their engine process is gone.
"""

import ctypes
import multiprocessing
import os
import signal
import sys

from vllm.v1.executor.multiproc_executor import MultiprocExecutor
from vllm.v1.executor.uniproc_executor import UniProcExecutor

_SET_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of prctl(2)


class AloneExecutor(UniProcExecutor):  # type: ignore[misc] # vLLM is not installed where types are checked
    """Runs one worker in the engine's process, which ends with its parent."""

    def _init_executor(self) -> None:
        end_with_parent()
        super()._init_executor()


class ParallelExecutor(MultiprocExecutor):  # type: ignore[misc] # as above
    """Runs a worker process for each GPU, under an engine process that ends with its parent."""

    def _init_executor(self) -> None:
        end_with_parent()
        super()._init_executor()


def end_with_parent() -> None:
    """Let the system kill this process when the thread that started it ends; only on Linux.

    Does nothing in a process that `multiprocessing` has not started.
    """
    parent = multiprocessing.parent_process()
    if parent is None or sys.platform != "linux":
        return
    ctypes.CDLL(None, use_errno=True).prctl(_SET_DEATH_SIGNAL, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent.pid:  # it ended before the signal was asked for
        os._exit(1)
