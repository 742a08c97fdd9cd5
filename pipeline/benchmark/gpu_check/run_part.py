"""Runs each part of the check in a process of its own, within its share of the time.

A part that raises, dies, or leaves the GPU unusable ends alone; what its process holds is free afterwards.
"""

import importlib
import multiprocessing
import os
import signal
import tempfile
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from importlib.util import find_spec
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess

from pipeline.benchmark.gpu_check.parts import PARTS
from pipeline.benchmark.gpu_check.results import Measured, Result
from pipeline.benchmark.options import GpuCheckOptions
from pipeline.run.config import RunConfig
from pipeline.support.errors import first_line

Measure = Callable[[RunConfig, GpuCheckOptions], Measured]


def run_part(name: str, config: RunConfig, options: GpuCheckOptions, seconds: float) -> Result:
    """Run one part in a new process, which is ended with all that it started once `seconds` are over.

    Its temporary files are removed then, however it ended.
    """
    missing = [package for package in PARTS[name].needs if find_spec(package) is None]
    if missing:
        return Result(name, "left out", error=f"{' and '.join(missing)} not installed here")
    started = time.monotonic()
    context = multiprocessing.get_context("spawn")
    answers, send = context.Pipe(duplex=False)
    # errors ignored: a process of its group may be about to die
    with tempfile.TemporaryDirectory(prefix="trimline-", ignore_cleanup_errors=True) as folder:
        process = context.Process(target=_run, args=(folder, send, name, config, options))
        process.start()
        send.close()
        result: Result | None = None
        try:
            if answers.poll(seconds):
                result = answers.recv()
            else:
                result = Result(name, "stopped", error=f"not done after {seconds:.0f} s")
        except EOFError:
            pass
        finally:
            _end(process)
        took = time.monotonic() - started
    return replace(result or Result(name, "broke", error=_death(process)), seconds=took)


def _death(process: BaseProcess) -> str:
    status = process.exitcode or 0
    return f"its process died ({signal.Signals(-status).name if status < 0 else f'exit status {status}'})"


def _end(process: BaseProcess) -> None:
    """End the process and all that it started; it leads a group of its own."""
    if process.pid is not None:
        process.join(0.2)  # one that has answered ends by itself, and tells its exit status
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
    process.kill()
    process.join()


def _run(folder: str, send: Connection, name: str, config: RunConfig, options: GpuCheckOptions) -> None:
    """Measure in this process, whose temporary files go into `folder`, and send what came of it."""
    os.environ["TMPDIR"] = tempfile.tempdir = folder  # also of the processes that it starts
    os.setpgid(0, 0)
    module, _, function = PARTS[name].function.partition(".")
    try:
        measure: Measure = getattr(
            importlib.import_module(f"pipeline.benchmark.gpu_check.{module}"), function
        )
        measured = measure(config, options)
        holds = all(claim.holds for claim in measured.claims)
        send.send(Result(name, "passed" if holds else "failed", measured=measured))
    except Exception as error:  # noqa: BLE001 - whatever it is, the other parts go on
        text = f"{type(error).__name__}: {first_line(error)}"
        send.send(Result(name, "broke", error=text, traceback=traceback.format_exc()))
