"""Treats SIGTERM like Ctrl-C: both raise KeyboardInterrupt in the main thread.

A command installs the handler (jobs/common/entry.py), and reports the KeyboardInterrupt in one line with
exit status 1. Ray would replace the handler; pipeline/run/cluster/start.py puts it back.
"""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


def interrupt_on_sigterm() -> None:
    """Let SIGTERM raise KeyboardInterrupt, as Ctrl-C does."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)


@contextmanager
def keeping_sigterm_handler() -> Iterator[None]:
    """Put the SIGTERM handler back at the end; Ray's own would exit with status 15 and no message."""
    handler = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():  # Python allows it in no other
            signal.signal(signal.SIGTERM, handler)
