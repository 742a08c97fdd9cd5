"""Treats SIGTERM like Ctrl-C: both raise KeyboardInterrupt in the main thread, once for several in a row.

A command installs the handlers (jobs/main.py), and reports the KeyboardInterrupt in one line with exit
status 1. Ray would replace that of SIGTERM; pipeline/run/cluster/start.py puts it back.
"""

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

INTERRUPTED = "interrupted; run the same command again to go on"
# Signals this soon after one that counted are dropped: the command is ending already, which may take seconds.
PATIENCE_S = 5.0


class _Interrupts:
    """Counts signals: one interrupts the command, or ends the process if the command has ended."""

    def __init__(self) -> None:
        self._last = -PATIENCE_S
        self._interrupted = False
        self._status: int | None = None  # of the command, once it has ended

    def conclude(self, status: int) -> None:
        """Let no signal raise from now on; one that comes late ends the process with this status.

        The threads of a run that was interrupted have nothing more to say.
        """
        self._last, self._status = time.monotonic(), status
        if self._interrupted:
            sys.stderr.flush()
            nothing = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nothing, 2)
            os.close(nothing)

    def on_signal(self, number: int, frame: object) -> None:
        """Raise KeyboardInterrupt, unless a signal has just done so."""
        now = time.monotonic()
        if now - self._last < PATIENCE_S:
            return
        self._last = now
        if self._status is not None:
            os._exit(self._status)
        self._interrupted = True
        raise KeyboardInterrupt

    def on_unraisable(self, raised: "sys.UnraisableHookArgs") -> None:
        """Raise an interrupt again that fell into a finalizer, where Python only prints it."""
        if raised.exc_type is not KeyboardInterrupt:
            sys.__unraisablehook__(raised)
        elif self._status is None:
            self._last = -PATIENCE_S
            main = threading.main_thread().ident
            threading.Timer(0.1, signal.pthread_kill, [main, signal.SIGTERM]).start()


_interrupts = _Interrupts()


def interrupt_on_signals() -> None:
    """Let Ctrl-C and SIGTERM raise KeyboardInterrupt; a SIGINT that the shell has turned off stays off."""
    global _interrupts
    _interrupts = _Interrupts()
    sys.unraisablehook = _interrupts.on_unraisable
    signal.signal(signal.SIGTERM, _interrupts.on_signal)
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, _interrupts.on_signal)


def conclude(status: int) -> None:
    """Let no signal interrupt the rest of the process, which ends with this exit status."""
    _interrupts.conclude(status)


@contextmanager
def keeping_sigterm_handler() -> Iterator[None]:
    """Put the SIGTERM handler back at the end; Ray's own would exit with status 15 and no message."""
    handler = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():  # Python allows it in no other
            signal.signal(signal.SIGTERM, handler)
