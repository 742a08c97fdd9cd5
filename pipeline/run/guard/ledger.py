"""Records, in a Ray actor, which units the stages work on, and counts the crashes at each unit."""

import os
import socket
import time
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class WorkItem:
    """Names a unit at a stage by its shard and its first sample.

    The read stage works on whole shards (`first` is None); an actor that loads its model on neither.
    """

    stage: str
    shard: int | None = None
    first: int | None = None


@dataclass(frozen=True, slots=True)
class InWork:
    """Records a work item in progress: its start (seconds since the epoch) and its process."""

    item: WorkItem
    since: float
    node: str
    pid: int


@dataclass(frozen=True, slots=True)
class Hopeless:
    """Counts units in a row, and their samples, of which a stage answered no row."""

    units: int = 0
    samples: int = 0


class Ledger:
    """Is the actor's class. An item that begins again before it has ended counts one death of its worker."""

    def __init__(self) -> None:
        self._in_work: dict[WorkItem, InWork] = {}
        self._deaths: dict[WorkItem, int] = {}
        self._hopeless: dict[str, Hopeless] = {}
        self._last_progress = time.time()

    def begin(self, item: WorkItem, node: str, pid: int) -> int:
        """Record that work begins; returns how many workers have died at this item before."""
        self._last_progress = time.time()
        if item in self._in_work:
            self._deaths[item] = self._deaths.get(item, 0) + 1
        self._in_work[item] = InWork(item, self._last_progress, node, pid)
        return self._deaths.get(item, 0)

    def defer(self, item: WorkItem) -> None:
        """Forget this item for now; a crash before it begins again is not counted against it."""
        self._in_work.pop(item, None)

    def end(self, item: WorkItem) -> None:
        """Record that work has ended, and forget the item's deaths."""
        self._last_progress = time.time()
        self._in_work.pop(item, None)
        self._deaths.pop(item, None)
        self._hopeless.pop(item.stage, None)

    def end_hopeless(self, item: WorkItem, samples: int) -> Hopeless:
        """Record the end of a unit of which every row failed; returns how many in a row have at its stage."""
        before = self._hopeless.get(item.stage, Hopeless())
        self.end(item)
        self._hopeless[item.stage] = Hopeless(before.units + 1, before.samples + samples)
        return self._hopeless[item.stage]

    def in_work(self) -> tuple[float, list[InWork]]:
        """Return the seconds since the last progress, and the items in work, oldest first."""
        return time.time() - self._last_progress, sorted(
            self._in_work.values(), key=lambda entry: entry.since
        )


@dataclass(frozen=True)
class LedgerHandle:
    """Calls the ledger's actor from the driver and from the stages' workers; travels to them by pickle."""

    actor: Any  # a Ray actor handle: Ray makes its methods' `remote` while running, without types

    def start_of_actor(self, stage: str) -> WorkItem:
        """Name the start of this process's actor, the same after a restart."""
        import ray

        return WorkItem(f"{stage} (start of actor {ray.get_runtime_context().get_actor_id()})")

    def begin(self, item: WorkItem) -> int:
        """Record that this process begins with an item; returns how many workers have died at it before."""
        import ray

        return int(ray.get(self.actor.begin.remote(item, socket.gethostname(), os.getpid())))

    def defer(self, item: WorkItem) -> None:
        """Forget an item until it begins again; does not wait for the ledger."""
        self.actor.defer.remote(item)

    def end(self, item: WorkItem) -> None:
        """Record that work on an item has ended; does not wait for the ledger."""
        self.actor.end.remote(item)

    def end_hopeless(self, item: WorkItem, samples: int) -> Hopeless:
        """Record the end of a unit of which every row failed; returns how many in a row have at its stage."""
        import ray

        hopeless: Hopeless = ray.get(self.actor.end_hopeless.remote(item, samples))
        return hopeless

    def in_work(self, timeout_s: float | None = None) -> tuple[float, list[InWork]]:
        """Return the seconds since the last progress, and the items in work, oldest first.

        Raises:
            ray.exceptions.RayError: no reply within the timeout, or the ledger is gone.
        """
        import ray

        quiet_s, entries = ray.get(self.actor.in_work.remote(), timeout=timeout_s)
        return float(quiet_s), list(entries)

    def kill(self) -> None:
        """End the ledger's actor."""
        import ray

        ray.kill(self.actor)


def start_ledger() -> LedgerHandle:
    """Start the ledger on the driver's node, so that losing another node does not lose it."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    node = ray.get_runtime_context().get_node_id()
    strategy = NodeAffinitySchedulingStrategy(node, soft=False)
    actor = ray.remote(Ledger).options(num_cpus=0, max_restarts=0, scheduling_strategy=strategy)
    return LedgerHandle(actor.remote())
