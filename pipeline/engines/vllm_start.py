"""Tells why vLLM could not start, although the cause is raised in another process.

On GPUs the engine has a process of its own, and with tensor parallelism one for each GPU. What is raised in
them goes to stderr, and this process gets no more than "See root cause above".
"""

import os
import re
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

from pipeline.support.errors import ConfigError, TrimlineError, described

_LINES = 400  # of stderr that are kept: a traceback of each process
_DRAIN_S = 1.0
_RAISED = re.compile(r"(?:^|\s)(?:[a-z_]\w*\.)*([A-Z]\w*(?:Error|Exception)|Exception): (\S.*)")
_OF_CONFIGURATION = {"ValueError", "ValidationError", "NotImplementedError"}
# what a process says whose neighbour has failed
_AFTERWARDS = {"BrokenPipeError", "ConnectionResetError", "EOFError", "DistNetworkError"}
# a ValueError in vLLM, but the fault of who else is on the GPU
_OCCUPIED = "Free memory on device"


class Stderr:
    """Passes stderr on, and keeps the last lines; `lines` grows as long as a process writes there."""

    def __init__(self) -> None:
        self.lines: deque[str] = deque(maxlen=_LINES)
        self._reader: threading.Thread | None = None

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Keep what this process writes, and without end what processes write that start in the block."""
        read, write = os.pipe()
        real = os.dup(2)
        os.dup2(write, 2)
        os.close(write)
        self._reader = threading.Thread(target=self._pass_on, args=(read, real), name="stderr", daemon=True)
        self._reader.start()
        try:
            yield
        finally:
            os.dup2(real, 2)

    def drain(self) -> None:
        """Wait for what has been written already; processes that live on may hold the pipe."""
        if self._reader is not None:
            self._reader.join(_DRAIN_S)

    def _pass_on(self, read: int, real: int) -> None:
        rest = b""
        while data := os.read(read, 1 << 16):
            os.write(real, data)
            *lines, rest = (rest + data).split(b"\n")
            self.lines.extend(line.decode(errors="replace") for line in lines)
        self.lines.append(rest.decode(errors="replace"))
        os.close(read)
        os.close(real)


@contextmanager
def explained(*, own_process: bool) -> Iterator[None]:
    """Raise what vLLM's start raises in this process or in its own, with the cause.

    Args:
        own_process: the engine starts one.

    Raises:
        ConfigError: vLLM refuses the configuration.
        RuntimeError: the engine's process fails with anything else.
    """
    stderr = Stderr()
    try:
        if own_process:
            with stderr.kept():
                yield
        else:
            yield
    except TrimlineError:
        raise
    except ValueError as error:  # pydantic's ValidationError is one
        raise fault("ValueError", " ".join(str(error).split())) from error
    except Exception as error:
        stderr.drain()
        raised = last_raised([*stderr.lines])
        if raised is None:
            raise
        raise fault(*raised) from error


def fault(kind: str, text: str) -> Exception:
    """Make the exception for what vLLM has raised; a configuration's fault ends the run."""
    text = described(RuntimeError(text)).removeprefix("RuntimeError: ")
    if kind in _OF_CONFIGURATION and _OCCUPIED not in text:
        return ConfigError(f"engine=vllm: vLLM refuses this configuration: {text}")
    return RuntimeError(f"vLLM cannot start: {kind}: {text}")


def last_raised(lines: list[str]) -> tuple[str, str] | None:
    """Find the last exception in lines of stderr that says a cause; returns its type's name and its text.

    Lines may have a process's name and a log's time before the exception.
    """
    for line in reversed(lines):
        found = _RAISED.search(line)
        if found and found[1] not in _AFTERWARDS and "root cause" not in line:
            return found[1], found[2].strip()
    return None
