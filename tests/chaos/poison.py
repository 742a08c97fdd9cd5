"""A reducer, an engine and a source that kill their process on certain samples."""

import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

from pipeline.engines.base import Engine, Request
from pipeline.engines.transformers import Transformers
from pipeline.sources.webdataset import WebDataset
from pipeline.support.fields import counted, free
from trim import Reduced, Trim, VisualTokens


@dataclass(frozen=True)
class PoisonedReducer(Trim):
    """TRIM, but a crash on the requests with these identities."""

    deadly: tuple[int, ...] = ()
    needs: ClassVar[frozenset] = Trim.needs | {"identity"}

    def __call__(self, x: VisualTokens) -> list[Reduced]:
        if set(x.identity.tolist()) & set(self.deadly):
            # in this thread: a signal to another thread may arrive after the answer
            signal.raise_signal(signal.SIGSEGV)
        return super().__call__(x)


@dataclass(frozen=True, kw_only=True)
class PoisonedEngine(Transformers):
    """The transformers engine, killed as if out of memory when a prompt holds a word."""

    word: str = counted("poison")

    def load(self, *arguments: Any, **options: Any) -> "Engine":
        return _Engine(super().load(*arguments, **options), self.word)


@dataclass
class _Engine:
    engine: Engine
    word: str

    def generate(self, requests: list[Request]) -> list[Any]:
        if any(self.word in request.prompt for request in requests):
            os.kill(os.getpid(), signal.SIGKILL)
        return self.engine.generate(requests)


@dataclass(frozen=True, kw_only=True)
class PoisonedTars(WebDataset):
    """Tars whose reader aborts at a certain key."""

    deadly: str = free("")

    def samples(self, *arguments: Any, **options: Any) -> Iterator[Any]:
        for sample in super().samples(*arguments, **options):
            if sample is not None and sample.key == self.deadly:
                signal.raise_signal(signal.SIGABRT)
            yield sample
