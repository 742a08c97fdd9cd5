"""Wraps a stage: isolates units that crash its worker, and marks them as failed after too many crashes.

A stage reports to the ledger when it begins and ends a unit. After a crash, Ray calls the restarted worker
with the same units again, and the ledger counts a death for each unit that had begun and not ended.
"""

import gc
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import pyarrow as pa

from pipeline.run.guard.isolated import IsolatedStage, MakeStage, ProcessDied, answer_isolated
from pipeline.run.guard.ledger import LedgerHandle, WorkItem
from pipeline.run.guard.samples import mark_failed
from pipeline.run.guard.shared_lock import SharedLock
from pipeline.stages.rows import pack_unit, unpack_unit
from pipeline.support.errors import RunError

if TYPE_CHECKING:
    from pipeline.stages.read import ReadPending

# After ISOLATE_AFTER deaths of its workers a unit runs in a separate process. After GIVE_UP_AFTER deaths it
# fails: its workers die although another process does the work.
ISOLATE_AFTER = 2
GIVE_UP_AFTER = 5


@dataclass(frozen=True)
class Watch:
    """Describes a stage to wrap.

    Attributes:
        name: of the stage.
        make: makes the stage, in its worker.
        can_fail: whether rows may become `failed`. Rows that are answered already may not.
    """

    name: str
    make: MakeStage
    ledger: LedgerHandle
    can_fail: bool = True

    def item(self, batch: pa.Table) -> WorkItem:
        """Name the unit of a batch as the ledger does."""
        return WorkItem(self.name, batch["shard"][0].as_py(), batch["first"][0].as_py())

    def run(self, batch: pa.Table) -> pa.Table:
        """Make the stage and run one unit through it."""
        return cast(pa.Table, self.make()(batch))  # every stage but `read` returns one table


def watched_actor(name: str) -> type:
    """Make the class of the stage's actors, with the stage's name for Ray to show."""
    return type(name, (_Actor,), {})


def watched_task(watch: Watch) -> Callable[[pa.Table], pa.Table]:
    """Make the function of the stage's tasks, with the stage's name for Ray to show."""

    def task(batch: pa.Table) -> pa.Table:
        item = watch.item(batch)
        deaths = watch.ledger.begin(item)
        if watch.can_fail and ISOLATE_AFTER <= deaths < GIVE_UP_AFTER:
            result = answer_isolated(watch.name, watch.make, batch)
        else:
            result = watch.run(_failed_if_given_up(watch, batch, deaths))
        watch.ledger.end(item)
        return result

    task.__name__ = watch.name
    return task


def watched_read(watch: Watch, shards: list[int]) -> Callable[[pa.Table], Iterator[pa.Table]]:
    """Make the function of the read tasks; a shard that kills its workers ends after its last good unit.

    Args:
        shards: the numbers of the pending shards; a batch has an index into them.
    """

    def read(batch: pa.Table) -> Iterator[pa.Table]:
        item = WorkItem(watch.name, shards[batch["pending"][0].as_py()])
        deaths = watch.ledger.begin(item)
        if deaths < ISOLATE_AFTER:
            yield from watch.make()(batch)
        else:
            yield from _read_isolated(watch, batch, deaths)
        watch.ledger.end(item)

    return read


class _Actor:
    """Runs an actor's stage; several threads may each have a unit in it.

    A crash counts as a death of every unit that was in the actor. To find the culprit, a unit that has been
    in a crash runs alone from then on. An example with three threads, and unit B that kills the process:

        A, B, C begin     no deaths so far: all three run under the shared lock
        crash             Ray restarts the actor and calls it with A, B, C again
        A, B, C begin     the ledger counts one death for each: each is a suspect, defers (so that no further
                          crash counts against it while it waits) and waits for the exclusive lock
        A begins          alone, and ends: its death is forgotten
        B begins          alone; crash: the actor is restarted, and only B had begun
        B begins          two deaths: deferred; then alone again, now in a separate process, sample by sample
        C begins          one death, as before; alone, and ends
    """

    def __init__(self, *, watch: Watch) -> None:
        import ray

        self._watch = watch
        self._lock = SharedLock()
        actor = ray.get_runtime_context().get_actor_id()  # the same after a restart
        start = WorkItem(f"{watch.name} (start of actor {actor})")
        if (deaths := watch.ledger.begin(start)) > ISOLATE_AFTER:
            raise RunError(f"stage {watch.name}: its worker died {deaths} times while it loaded its model")
        self._stage = watch.make()
        watch.ledger.end(start)

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Run one unit through the stage."""
        ledger, item = self._watch.ledger, self._watch.item(batch)
        with self._lock.shared():
            is_suspect = ledger.begin(item) > 0
            if is_suspect:
                ledger.defer(item)
            else:
                result = cast(pa.Table, self._stage(batch))
        if is_suspect:
            with self._lock.exclusive():
                result = self._run_suspect(batch, ledger.begin(item))
        ledger.end(item)
        return result

    def _run_suspect(self, batch: pa.Table, deaths: int) -> pa.Table:
        """Run a unit whose workers died, while no other unit is in the actor."""
        if not ISOLATE_AFTER <= deaths < GIVE_UP_AFTER:
            return cast(pa.Table, self._stage(_failed_if_given_up(self._watch, batch, deaths)))
        del self._stage  # memory may not hold the model twice
        gc.collect()
        result = answer_isolated(self._watch.name, self._watch.make, batch)
        self._stage = self._watch.make()
        return result


def _failed_if_given_up(watch: Watch, batch: pa.Table, deaths: int) -> pa.Table:
    """Return the unit as it is or, after too many deaths, with its rows marked as failed.

    Raises:
        RunError: too many deaths at a stage whose rows may not fail.
    """
    if deaths < GIVE_UP_AFTER:
        return batch
    row = unpack_unit(batch)
    error = f"{deaths} workers of stage {watch.name} died on this unit"
    if not watch.can_fail:
        raise RunError(f"{error}: {row.unit.file_name}")
    return pack_unit(mark_failed(row, error))


def _read_isolated(watch: Watch, batch: pa.Table, deaths: int) -> Iterator[pa.Table]:
    """Read a shard in a separate process; if that dies, end the shard after the units read so far."""
    reader = cast("ReadPending", watch.make())
    read: dict[int, int] = {}  # first -> stop
    reason = f"{deaths} workers died on it"
    if deaths < GIVE_UP_AFTER:
        with IsolatedStage(watch.make) as process:
            try:
                for unit in process.stream(batch):
                    read[unit["first"][0].as_py()] = unit["stop"][0].as_py()
                    yield unit
            except ProcessDied as death:
                reason = str(death)
            else:
                return
    yield from reader.broken_off(batch, read, f"reading it killed its worker: {reason}")
