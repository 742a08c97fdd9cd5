"""Who is at what: an actor that every stage tells what it begins and what it ends."""

import time
from dataclasses import dataclass

Place = tuple[str, int, int]  # stage, shard, first sample of the unit (-1: the shard, or the stage's start)


@dataclass(frozen=True)
class Begun:
    """What a stage is at: since when (seconds since the epoch), and in which process."""

    place: Place
    since: float
    node: str
    pid: int


class Ledger:
    """Counts, for each unit at each stage, how often it was begun without an end: its workers' deaths."""

    def __init__(self) -> None:
        self._begun: dict[Place, Begun] = {}
        self._deaths: dict[Place, int] = {}
        self._moved = time.time()

    def begin(self, place: Place, node: str, pid: int) -> int:
        """How many workers have died at this before."""
        self._moved = time.time()
        if place in self._begun:
            self._deaths[place] = self._deaths.get(place, 0) + 1
        self._begun[place] = Begun(place, self._moved, node, pid)
        return self._deaths.get(place, 0)

    def put_off(self, place: Place) -> None:
        """It will be begun again: a death until then is not its own."""
        self._begun.pop(place, None)

    def end(self, place: Place) -> None:
        """The stage is through with it."""
        self._moved = time.time()
        self._begun.pop(place, None)
        self._deaths.pop(place, None)

    def standing(self) -> tuple[float, list[Begun]]:
        """For how many seconds nothing has begun or ended, and what has begun, the oldest first."""
        return time.time() - self._moved, sorted(self._begun.values(), key=lambda item: item.since)
