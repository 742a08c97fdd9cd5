"""Tells now and then how far a long loop is."""

import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from pipeline.support import log

Item = TypeVar("Item")
_EVERY_S = 10.0


def telling(items: Iterable[Item], total: int, what: str) -> Iterator[Item]:
    """Yield the items, and say on stderr every ten seconds how many of `total` have been; `what` they are."""
    last = time.monotonic()
    for number, item in enumerate(items, 1):
        yield item
        if (now := time.monotonic()) - last >= _EVERY_S:
            last = now
            log.tell("reading", f"{number:,} of {total:,} {what}")
