"""Calls the ledger from the driver and from the stages' workers, and starts it."""

from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from pipeline.run.guard.incidents import Incident
from pipeline.run.guard.ledger import ActorStart, Hopeless, InWork, Ledger, WorkItem
from pipeline.run.guard.location import WorkerProcess


@dataclass(frozen=True)
class LedgerHandle:
    """Calls the ledger's actor; travels to the stages' workers by pickle.

    The methods do what the ledger's of the same name do. Those that return nothing do not wait for the
    ledger, except those that are followed by the end of the process.
    """

    actor: Any  # a Ray actor handle: Ray makes its methods' `remote` while running, without types

    def ask(self, method: str, *arguments: object, timeout_s: float | None = None) -> Any:
        """Call a method of the ledger, and wait for what it returns."""
        import ray

        return ray.get(getattr(self.actor, method).remote(*arguments), timeout=timeout_s)

    def tell(self, method: str, *arguments: object) -> None:
        """Call a method of the ledger, and do not wait; later calls of this process come after it."""
        getattr(self.actor, method).remote(*arguments)

    def begin(self, item: WorkItem, process: WorkerProcess) -> int:
        """Record that a process begins with an item; returns how many workers have died at it before."""
        return int(self.ask("begin", item, process))

    def defer(self, item: WorkItem) -> None:
        """Forget an item until it begins again."""
        self.tell("defer", item)

    def end(self, item: WorkItem) -> None:
        """Record that work on an item has ended."""
        self.tell("end", item)

    def end_hopeless(self, item: WorkItem, samples: int) -> Hopeless:
        """Record the end of a unit of which every row failed; returns how many in a row have at its stage."""
        hopeless: Hopeless = self.ask("end_hopeless", item, samples)
        return hopeless

    def start(self, stage: str, process: WorkerProcess) -> ActorStart:
        """Record that an actor's process starts; returns what it has to know before it loads its model."""
        start: ActorStart = self.ask("start", stage, process)
        return start

    def fail_start(self, stage: str, process: WorkerProcess, error: str) -> None:
        """Record why a start has failed; waits, since the process ends then."""
        self.ask("fail_start", stage, process, error)

    def lose(self, item: WorkItem, process: WorkerProcess, error: str) -> None:
        """Record that a process can use its GPU no more; waits, since the process ends then."""
        self.ask("lose", item, process, error)

    def set_apart(self, item: WorkItem, process: WorkerProcess) -> None:
        """Record that a unit runs apart after the actor's restart; waits, since the process ends then."""
        self.ask("set_apart", item, process)

    def retire(self, stage: str, process: WorkerProcess, item: WorkItem | None, reason: str) -> None:
        """Record that an actor uses its GPU no more; waits, so that the unit begins anew elsewhere."""
        self.ask("retire", stage, process, item, reason)

    def keep_sample(self, stage: str, sample: pa.Table) -> None:
        """Give the ledger a packed sample that the stage has answered."""
        self.tell("keep_sample", stage, sample)

    def sample(self, stage: str) -> pa.Table | None:
        """Return a packed sample that the stage has answered; None if there is none yet."""
        sample: pa.Table | None = self.ask("sample", stage)
        return sample

    def incidents(self, timeout_s: float | None = None) -> list[Incident]:
        """List what happened to devices; ray.exceptions.RayError as for `in_work`."""
        return list(self.ask("incidents", timeout_s=timeout_s))

    def in_work(self, timeout_s: float | None = None) -> tuple[float, list[InWork]]:
        """Return the seconds since the last progress, and the items in work, oldest first.

        Raises:
            ray.exceptions.RayError: no reply within the timeout, or the ledger is gone.
        """
        quiet_s, entries = self.ask("in_work", timeout_s=timeout_s)
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
