"""Lists the parts of the check, and runs each in a process of its own, for as long as it may take.

A part that raises, dies, or leaves the GPU unusable ends alone; what its process holds is free afterwards.
"""

import importlib
import multiprocessing
import os
import signal
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess

from pipeline.benchmark.gpu_check.results import Measured, Result, State, pack_measured, unpack_measured
from pipeline.benchmark.options import GpuCheckOptions
from pipeline.run.config import RunConfig
from pipeline.support.errors import first_line

_DONE, _RAISED = b"1", b"0"
Measure = Callable[[RunConfig, GpuCheckOptions], Measured]


@dataclass(frozen=True)
class CheckPart:
    """Names a part's function, and its share of the time; the time that a part leaves goes to the next.

    `needs`: packages without which it is left out.
    """

    function: str  # module of this room, and name
    share: float
    needs: tuple[str, ...] = ()


PARTS: dict[str, CheckPart] = {
    "same_answers": CheckPart("same_answers.measure", 40),
    "same_answers_vllm": CheckPart("same_answers.measure_vllm", 60, ("vllm",)),
    "waits": CheckPart("waits.measure", 30),
    "halved": CheckPart("halved.measure", 30),
    "weights": CheckPart("speed.make_weights", 90),
    "speed": CheckPart("speed.measure", 60),
    "speed_vllm": CheckPart("speed.measure_vllm", 80, ("vllm",)),
    "peer_vllm": CheckPart("speed.measure_peer", 90, ("vllm", "torchvision")),
}


def run_part(name: str, config: RunConfig, options: GpuCheckOptions, seconds: float) -> Result:
    """Run one part in a new process, which is ended with all that it started once `seconds` are over."""
    missing = [package for package in PARTS[name].needs if find_spec(package) is None]
    if missing:
        return Result(name, "left out", error=f"{' and '.join(missing)} not installed here")
    started = time.monotonic()
    context = multiprocessing.get_context("spawn")
    answers, send = context.Pipe(duplex=False)
    process = context.Process(target=_run, args=(send, name, config, options))
    process.start()
    send.close()
    try:
        message = answers.recv_bytes() if answers.poll(seconds) else None
    except EOFError:
        message = b""
    finally:
        _end(process)
    return _result(name, message, process, time.monotonic() - started, seconds)


def _result(name: str, message: bytes | None, process: BaseProcess, seconds: float, limit: float) -> Result:
    if message is None:
        return Result(name, "stopped", seconds, error=f"not done after {limit:.0f} s")
    if message[:1] == _DONE:
        measured = unpack_measured(message[1:])
        state: State = "passed" if all(claim.holds for claim in measured.claims) else "failed"
        return Result(name, state, seconds, measured)
    if message[:1] == _RAISED:
        error, _, trace = message[1:].decode().partition("\n")
        return Result(name, "broke", seconds, error=error, traceback=trace)
    return Result(name, "broke", seconds, error=f"its process died ({_death(process)})")


def _death(process: BaseProcess) -> str:
    status = process.exitcode or 0
    return signal.Signals(-status).name if status < 0 else f"exit status {status}"


def _end(process: BaseProcess) -> None:
    """End the process and all that it started; it leads a group of its own."""
    if process.pid is not None:
        process.join(0.2)  # one that has answered ends by itself, and tells its exit status
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
    process.kill()
    process.join()


def _run(send: Connection, name: str, config: RunConfig, options: GpuCheckOptions) -> None:
    """Measure in this process, and send what came of it."""
    os.setpgid(0, 0)
    module, _, function = PARTS[name].function.partition(".")
    try:
        measure: Measure = getattr(
            importlib.import_module(f"pipeline.benchmark.gpu_check.{module}"), function
        )
        send.send_bytes(_DONE + pack_measured(measure(config, options)))
    except Exception as error:  # noqa: BLE001 - whatever it is, the other parts go on
        text = f"{type(error).__name__}: {first_line(error)}\n{traceback.format_exc()}"
        send.send_bytes(_RAISED + text.encode())
