"""Wraps a stage: a unit that crashes its worker or raises an exception is answered apart from the others.

A stage reports to the ledger when it begins and ends a unit. After a crash, Ray calls the restarted worker
with the same units again, and the ledger counts a death for each unit that had begun and not ended.

After an exception the process is still there: the unit is tried again in it, whole, then sample by sample. If
no sample is answered, the process may be at fault, and not the samples: then a new one is asked.
"""

import gc
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import pyarrow as pa

from pipeline.run.guard.faults import ProcessDied, Run, StageRaised, catching, ends_run
from pipeline.run.guard.isolated import IsolatedStage, MakeStage, answer_isolated
from pipeline.run.guard.ledger import LedgerHandle, WorkItem
from pipeline.run.guard.pieces import Passed, answer_in_pieces
from pipeline.run.guard.samples import count_open, mark_failed, split_by_sample
from pipeline.run.guard.shared_lock import SharedLock
from pipeline.stages.rows import pack_unit, unpack_unit
from pipeline.support.errors import RunError

if TYPE_CHECKING:
    from pipeline.stages.read import ReadPending

# After ISOLATE_AFTER deaths of its workers a unit runs in a separate process. After GIVE_UP_AFTER deaths it
# fails: its workers die although another process does the work.
ISOLATE_AFTER = 2
GIVE_UP_AFTER = 5
# A new process, which is asked after exceptions on every sample, gives up after so many more in a row: each
# costs loading the model.
PATIENCE = 3
# A stage that answers nothing of so many units in a row, with so many samples, is broken: the run ends.
HOPELESS_UNITS, HOPELESS_SAMPLES = 3, 32


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

    def end(self, batch: pa.Table, answered: Passed) -> pa.Table:
        """Tell the ledger that a unit has ended, and return what the stage has made of it.

        Raises:
            RunError: the stage answers nothing any more.
        """
        item = self.item(batch)
        if answered.hopeless is None:
            self.ledger.end(item)
            return answered.batch
        unit = unpack_unit(batch).unit
        in_a_row = self.ledger.end_hopeless(item, unit.stop - unit.first)
        if in_a_row.units >= HOPELESS_UNITS and in_a_row.samples >= HOPELESS_SAMPLES:
            raise RunError(
                f"{answered.hopeless}; it answered no sample of {in_a_row.units} units in a row, the last is "
                f"{unit.file_name}; the rows of those before are failed, retry_failed=true makes them again"
            )
        return answered.batch


def watched_actor(name: str) -> type:
    """Make the class of the stage's actors, with the stage's name for Ray to show."""
    return type(name, (_Actor,), {})


def watched_task(watch: Watch) -> Callable[[pa.Table], pa.Table]:
    """Make the function of the stage's tasks, with the stage's name for Ray to show."""

    def task(batch: pa.Table) -> pa.Table:
        item = watch.item(batch)
        deaths = watch.ledger.begin(item)
        if watch.can_fail and ISOLATE_AFTER <= deaths < GIVE_UP_AFTER:
            return watch.end(batch, answer_isolated(watch.name, watch.make, batch))
        given = _failed_if_given_up(watch, batch, deaths)
        if not watch.can_fail:
            return watch.end(batch, Passed(watch.run(given)))
        run = catching(watch.run)
        with suppress(StageRaised):
            return watch.end(batch, Passed(run(given)))
        answered = answer_in_pieces(watch.name, run, given)
        if answered.hopeless:
            elsewhere = answer_isolated(watch.name, watch.make, given, PATIENCE)
            answered = answered if elsewhere.hopeless else elsewhere
        return watch.end(batch, answered)

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

    If B raises an exception instead, A and C end as usual, and B then waits for the exclusive lock.
    """

    def __init__(self, *, watch: Watch) -> None:
        self._watch = watch
        self._lock = SharedLock()
        start = watch.ledger.start_of_actor(watch.name)
        if (deaths := watch.ledger.begin(start)) > ISOLATE_AFTER:
            raise RunError(f"stage {watch.name}: its worker died {deaths} times while it loaded its model")
        self._stage: Run | None = cast(Run, watch.make())
        self._answered: pa.Table | None = None  # a sample that the stage can answer
        watch.ledger.end(start)

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Run one unit through the stage."""
        ledger, item = self._watch.ledger, self._watch.item(batch)
        answered = None
        with self._lock.shared():
            if ledger.begin(item) == 0:
                with suppress(StageRaised):
                    answered = Passed(self._run(batch))
            if answered is None:
                ledger.defer(item)
        if answered is None:
            with self._lock.exclusive():
                answered = self._run_suspect(batch, ledger.begin(item))
        return self._watch.end(batch, answered)

    def _run(self, batch: pa.Table) -> pa.Table:
        if self._stage is None:  # Ray restarts the actor, and calls it with the same units again
            os._exit(1)
        result = catching(self._stage)(batch)
        if self._answered is None:
            open_samples = (piece for piece in split_by_sample(unpack_unit(batch)) if count_open(piece))
            self._answered = next((pack_unit(piece) for piece in open_samples), None)
        return result

    def _run_suspect(self, batch: pa.Table, deaths: int) -> Passed:
        """Run a unit that raised an exception or whose workers died, while no other is in the actor."""
        if ISOLATE_AFTER <= deaths < GIVE_UP_AFTER:
            return self._run_elsewhere(batch)
        given = _failed_if_given_up(self._watch, batch, deaths)
        answered = answer_in_pieces(self._watch.name, self._run, given)
        if answered.hopeless is None or self._still_answers():
            return answered
        elsewhere = self._run_elsewhere(given, PATIENCE)
        return answered if elsewhere.hopeless else elsewhere

    def _still_answers(self) -> bool:
        """Tell whether the stage answers what it has answered before: an exception may have broken it."""
        if self._answered is None:
            return False
        with suppress(StageRaised):
            self._run(self._answered)
            return True
        return False

    def _run_elsewhere(self, batch: pa.Table, patience: int | None = None) -> Passed:
        """Run a unit in a separate process; memory may not hold the model twice."""
        self._stage = None
        gc.collect()
        answered = answer_isolated(self._watch.name, self._watch.make, batch, patience)
        try:
            self._stage = cast(Run, self._watch.make())
        except Exception as error:
            if ends_run(error):
                raise
            # a device that is lost to this process: the next unit ends it
        return answered


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
            except StageRaised as fault:  # what is the shard's own fault is told by the last unit
                raise RunError(fault.error(watch.name)) from None
            except ProcessDied as death:
                reason = str(death)
            else:
                return
    yield from reader.broken_off(batch, read, f"reading it killed its worker: {reason}")
