"""Holds sets of millions of items as sorted hashes, and finds which items come more than once."""

import tempfile
from collections.abc import Hashable, Iterable, Iterator
from hashlib import blake2b
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

_PARTS = 64
_IN_MEMORY = 1 << 20


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


def lasting_hashes(texts: Iterable[str]) -> NDArray[np.uint64]:
    """Hash texts, in their order, to the same numbers in every process."""
    digests = (blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest() for text in texts)
    return np.frombuffer(b"".join(digests), "<u8")


class Repeats:
    """Finds the items of a stream whose hash an earlier one had.

    Some 100 MB are in memory for a hundred million items. If there are more than a million, each takes 16
    bytes of a temporary folder, which the end of the context removes.
    """

    def __init__(self, in_memory: int = _IN_MEMORY) -> None:
        self._in_memory = in_memory
        self._waiting: list[NDArray[np.uint64]] = []  # rows of hash and place
        self._count = self._waiting_count = 0
        self._folder: tempfile.TemporaryDirectory[str] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._folder is not None:
            self._folder.cleanup()

    def add(self, hashes: NDArray[np.uint64]) -> None:
        """Add the next items."""
        places = np.arange(self._count, self._count + len(hashes), dtype=np.uint64)
        self._waiting.append(np.stack([hashes, places], axis=1))
        self._count += len(hashes)
        self._waiting_count += len(hashes)
        if self._waiting_count > self._in_memory:
            self._spill()

    def count(self, most: int) -> tuple[int, list[int]]:
        """Count the items that came before, and list the places, from 0, of the first `most` that differ."""
        repeated, first = 0, np.empty(0, np.uint64)
        for items in self._parts():
            items = items[np.lexsort((items[:, 1], items[:, 0]))]
            again = items[1:, 0] == items[:-1, 0]
            second = again & ~np.concatenate([[False], again[:-1]])
            repeated += int(again.sum())
            first = np.sort(np.concatenate([first, items[1:, 1][second]]))[:most]
        return repeated, first.tolist()

    def _parts(self) -> Iterator[NDArray[np.uint64]]:
        """Yield all items in parts, such that items with one hash are in one part."""
        if self._folder is None:
            yield from [np.concatenate(self._waiting)] if self._waiting else []
            return
        self._spill()
        for file in Path(self._folder.name).iterdir():
            yield np.fromfile(file, np.uint64).reshape(-1, 2)

    def _spill(self) -> None:
        self._folder = self._folder or tempfile.TemporaryDirectory(prefix="trimline-")
        items = np.concatenate(self._waiting) if self._waiting else np.empty((0, 2), np.uint64)
        self._waiting, self._waiting_count = [], 0
        part = items[:, 0] % _PARTS
        for number in np.unique(part):
            with (Path(self._folder.name) / str(number)).open("ab") as file:
                items[part == number].tofile(file)
