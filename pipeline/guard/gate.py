"""Units go through a stage together, or one goes through alone."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Gate:
    """For threads. Who wants to be alone waits until all others are through, and keeps later ones waiting."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._inside = 0
        self._loners = 0

    @contextmanager
    def together(self) -> Iterator[None]:
        """Go through with others."""
        with self._changed:
            self._changed.wait_for(lambda: not self._loners)
            self._inside += 1
        try:
            yield
        finally:
            self._leave()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Go through without any other."""
        with self._changed:
            self._loners += 1
            self._changed.wait_for(lambda: not self._inside)
            self._inside += 1
        try:
            yield
        finally:
            with self._changed:
                self._loners -= 1
            self._leave()

    def _leave(self) -> None:
        with self._changed:
            self._inside -= 1
            self._changed.notify_all()
