"""Holds sets of millions of items as sorted hashes, eight bytes an item."""

from collections.abc import Hashable, Iterable

import numpy as np
from numpy.typing import NDArray


def hashes_of(items: Iterable[Hashable]) -> NDArray[np.int64]:
    """Hash items and sort the hashes."""
    hashes = np.fromiter(map(hash, items), np.int64)
    hashes.sort()
    return hashes


def holds(hashes: NDArray[np.int64], item: Hashable) -> bool:
    """Tell whether sorted hashes hold that of an item."""
    value = hash(item)
    place = int(np.searchsorted(hashes, value))
    return place < len(hashes) and int(hashes[place]) == value
