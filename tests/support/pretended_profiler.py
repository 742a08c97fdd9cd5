"""Gives torch.profiler what it would see of the pretended CUDA device: the waits of the host."""

from types import SimpleNamespace
from typing import Any, Self

import torch

from tests.support.pretended_cuda import install_pretended_cuda
from tests.support.pretended_device import Counts


def install(**options: Any) -> None:
    """Pretend for the rest of this process that it has a CUDA device, which torch.profiler can trace."""
    counts = install_pretended_cuda(**options)
    torch.profiler.profile = lambda **_: _Profile(counts)  # type: ignore[assignment, misc]


class _Profile:
    """Counts the waits within its block; see torch.profiler.profile."""

    def __init__(self, counts: Counts) -> None:
        self._counts, self._waits = counts, 0

    def __enter__(self) -> Self:
        self._waits = -self._counts.waits.total()
        return self

    def __exit__(self, *_: object) -> None:
        torch.cuda.synchronize()  # as the profiler does when it stops
        self._waits += self._counts.waits.total()

    def key_averages(self) -> list[SimpleNamespace]:
        """Return the waits as one kind of event."""
        return [SimpleNamespace(key="cudaStreamSynchronize", count=self._waits)]
