"""Wraps a stage: a unit that crashes its worker or raises an exception is answered apart from the others.

A stage reports to the ledger when it begins and ends a unit. After a crash, Ray calls the restarted worker
with the same units again, and the ledger counts a death for each unit that had begun and not ended.

After an exception the process is still there: the unit is tried again in it, whole, then sample by sample. If
no sample is answered, the process may be at fault, and not the samples: then a new one is asked.
"""

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import pyarrow as pa

from pipeline.run.guard.faults import GIVE_UP_AFTER, ISOLATE_AFTER, ProcessDied, StageRaised, catching
from pipeline.run.guard.isolated import IsolatedStage, MakeStage, answer_isolated
from pipeline.run.guard.ledger import WorkItem
from pipeline.run.guard.ledger_handle import LedgerHandle
from pipeline.run.guard.location import this_process
from pipeline.run.guard.pieces import Passed, answer_in_pieces
from pipeline.run.guard.samples import mark_failed
from pipeline.stages.rows import pack_unit, unpack_unit
from pipeline.support.errors import RunError

if TYPE_CHECKING:
    from pipeline.stages.read import ReadPending

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
        num_gpus: what an actor of the stage books.
        at_once: how many units an actor of the stage works on at once.
        free_gpu_s: how long an actor whose GPU is at fault waits for another one while nobody works.
    """

    name: str
    make: MakeStage
    ledger: LedgerHandle
    can_fail: bool = True
    num_gpus: float = 0.0
    at_once: int = 1
    free_gpu_s: float = 60.0

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


def watched_task(watch: Watch) -> Callable[[pa.Table], pa.Table]:
    """Make the function of the stage's tasks, with the stage's name for Ray to show."""

    def task(batch: pa.Table) -> pa.Table:
        item = watch.item(batch)
        deaths = watch.ledger.begin(item, this_process())
        if watch.can_fail and ISOLATE_AFTER <= deaths < GIVE_UP_AFTER:
            return watch.end(batch, answer_isolated(watch.name, watch.make, batch))
        given = failed_if_given_up(watch, batch, deaths)
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


def watched_read(watch: Watch) -> Callable[[pa.Table], Iterator[pa.Table]]:
    """Make the function of the read tasks; a shard that kills its workers ends after its last good unit."""

    def read(batch: pa.Table) -> Iterator[pa.Table]:
        item = WorkItem(watch.name, batch["shard"][0].as_py())
        deaths = watch.ledger.begin(item, this_process())
        if deaths < ISOLATE_AFTER:
            yield from watch.make()(batch)
        else:
            yield from _read_isolated(watch, batch, deaths)
        watch.ledger.end(item)

    return read


def failed_if_given_up(watch: Watch, batch: pa.Table, deaths: int) -> pa.Table:
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
