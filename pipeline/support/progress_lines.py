"""Tells now and then how far a long loop is."""

import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from pipeline.support import log

Item = TypeVar("Item")
_EVERY_S = 10.0


def telling(
    items: Iterable[Item], total: int, what: str, count: Callable[[Item], int] = lambda _: 1
) -> Iterator[Item]:
    """Yield the items, and say on stderr every ten seconds how many of `total` have been; `what` they are.

    Args:
        count: how many of `total` an item is.
    """
    last, number = time.monotonic(), 0
    for item in items:
        yield item
        number += count(item)
        if (now := time.monotonic()) - last >= _EVERY_S:
            last = now
            log.tell("reading", f"{number:,} of {total:,} {what}")
