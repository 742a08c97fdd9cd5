"""Records which units the stages work on, and counts the crashes at each unit by where they happened."""

import time
from collections import Counter, defaultdict
from dataclasses import dataclass

import pyarrow as pa

from pipeline.run.guard.faults import ISOLATE_AFTER
from pipeline.run.guard.health import Health
from pipeline.run.guard.incidents import DIED, LOST, NOT_LOADED, RETIRED, Incident, Incidents
from pipeline.run.guard.location import Location, WorkerProcess


@dataclass(frozen=True, slots=True)
class WorkItem:
    """Names a unit at a stage by its shard and its first sample.

    The read stage works on whole shards (`first` is None); an actor that loads its model on neither.
    """

    stage: str
    shard: int | None = None
    first: int | None = None

    @property
    def is_unit(self) -> bool:
        """Whether it is a unit, and neither a shard nor the start of an actor."""
        return self.first is not None


@dataclass(frozen=True, slots=True)
class InWork:
    """Records a work item in progress: its start (seconds since the epoch) and its process."""

    item: WorkItem
    since: float
    process: WorkerProcess


@dataclass(frozen=True, slots=True)
class Hopeless:
    """Counts units in a row, and their samples, of which a stage answered no row."""

    units: int = 0
    samples: int = 0


@dataclass(frozen=True, slots=True)
class ActorStart:
    """Tells an actor that starts what is known of its earlier processes and of its GPU.

    Attributes:
        deaths: how many of its processes have died or failed while they loaded the model.
        error: of the last one that failed; "" if none has told any.
        apart: units that are to run in a separate process, before this one loads the model.
        retired: why its GPU was given up; None if it was not.
        is_restart: whether another process of this actor was here before.
    """

    deaths: int
    error: str = ""
    apart: frozenset[WorkItem] = frozenset()
    retired: str | None = None
    is_restart: bool = False


_DEATH = "killed by a signal, or it ended itself"
_START = " (start of actor "


def start_of(stage: str, process: WorkerProcess) -> WorkItem:
    """Name the start of an actor, the same after a restart."""
    return WorkItem(f"{stage}{_START}{process.actor})")


class Ledger:
    """Is the actor's class. An item that begins again before it has ended counts one death of its worker."""

    def __init__(self) -> None:
        self._in_work: dict[WorkItem, InWork] = {}
        self._deaths: dict[WorkItem, Counter[Location]] = {}
        self._hopeless: dict[str, Hopeless] = {}
        self._last_progress = time.time()
        self._apart: dict[WorkItem, str] = {}  # by actor
        self._lost: set[WorkItem] = set()  # units that were in work when a process lost its GPU
        self._health: dict[str, Health] = defaultdict(Health)  # of GPUs, by stage
        self._actors: set[str] = set()  # that have started
        self._errors: dict[WorkItem, str] = {}  # of starts
        self._retired: dict[tuple[str, Location], str] = {}
        self._samples: dict[str, pa.Table] = {}
        self._incidents = Incidents()

    def begin(self, item: WorkItem, process: WorkerProcess) -> int:
        """Record that work begins; returns how many workers have died at this item before."""
        self._last_progress = time.time()
        if before := self._in_work.get(item):
            self._count_death(item, before.process)
        self._in_work[item] = InWork(item, self._last_progress, process)
        return self._deaths_of(item)

    def defer(self, item: WorkItem) -> None:
        """Forget this item for now; a crash before it begins again is not counted against it."""
        self._in_work.pop(item, None)

    def end(self, item: WorkItem) -> None:
        """Record that work has ended, and forget the item's deaths."""
        self._last_progress = time.time()
        entry = self._in_work.pop(item, None)
        if entry and item.is_unit and entry.process.location.gpus:
            is_at_fault = item in self._apart  # it was found out in a process of its own
            self._health[item.stage].add_end(item, entry.process.location, is_at_fault=is_at_fault)
        self._forget(item)
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

    # --- starts of actors ---

    def start(self, stage: str, process: WorkerProcess) -> ActorStart:
        """Record that an actor's process starts; returns what it has to know before it loads its model."""
        item = start_of(stage, process)
        deaths = self.begin(item, process)
        apart = {unit for unit, actor in self._apart.items() if actor == process.actor}
        if process.location.gpus:  # a process of its own finds no room there beside this one's model
            apart |= {
                entry.item
                for entry in self._in_work.values()
                if entry.item.is_unit
                and entry.process.actor == process.actor
                and self._deaths_of(entry.item) + 1 >= ISOLATE_AFTER
            }
            self._apart |= dict.fromkeys(apart, process.actor)
        retired = self._retired.get((stage, process.location))
        retired = retired or self._health[stage].sickness(process.location)
        is_restart = process.actor in self._actors
        self._actors.add(process.actor)
        return ActorStart(deaths, self._errors.get(item, ""), frozenset(apart), retired, is_restart)

    def fail_start(self, stage: str, process: WorkerProcess, error: str) -> None:
        """Record why a start has failed; the process ends, and that counts as a death at the start alone."""
        self._release(process)
        self._errors[start_of(stage, process)] = error
        if process.location.gpus:
            self._incidents.add(NOT_LOADED, stage, process.location, error)

    # --- faults of GPUs ---

    def lose(self, item: WorkItem, process: WorkerProcess, error: str) -> None:
        """Record that a process can use its GPU no more, and ends.

        That is no death at the units in it, but from the second time on one at the unit `item`, which met
        the error.
        """
        self._release(process)
        health = self._health[item.stage]
        if health.add_fault(item, process):  # several of its threads may meet the error
            self._incidents.add(LOST, item.stage, process.location, error)
        if item in self._lost:
            self._deaths.setdefault(item, Counter())[process.location] += 1
        self._lost.add(item)
        if max(self._deaths_of(item), health.in_a_row(process.location) - 1) >= ISOLATE_AFTER:
            self._apart[item] = process.actor

    def set_apart(self, item: WorkItem, process: WorkerProcess) -> None:
        """Record that a unit is to run apart when the actor, whose process ends, has started again."""
        self._in_work.pop(item, None)
        self._apart[item] = process.actor

    def retire(self, stage: str, process: WorkerProcess, item: WorkItem | None, reason: str) -> None:
        """Record that an actor uses its GPU no more, and forget what happened to units there."""
        location = process.location
        for entry in [entry for entry in self._in_work.values() if entry.process.actor == process.actor]:
            del self._in_work[entry.item]
        if (stage, location) not in self._retired:
            self._incidents.add(RETIRED, stage, location, reason)
        self._retired[stage, location] = reason
        for unit, deaths in self._deaths.items():
            if unit.stage == stage:
                del deaths[location]
        for done in (item, start_of(stage, process)):
            if done is not None:
                self._forget(done)

    def keep_sample(self, stage: str, sample: pa.Table) -> None:
        """Keep a packed sample that a stage has answered: a GPU that does not answer it is at fault."""
        self._samples.setdefault(stage, sample)

    def sample(self, stage: str) -> pa.Table | None:
        """Return a packed sample that a stage has answered; None if there is none yet."""
        return self._samples.get(stage)

    def incidents(self) -> list[Incident]:
        """List what happened to devices."""
        return list(self._incidents)

    def _release(self, process: WorkerProcess) -> None:
        """Let no unit in a process that ends count a death by that."""
        for item in [item for item, entry in self._in_work.items() if entry.process == process]:
            if item.is_unit:
                del self._in_work[item]

    def _deaths_of(self, item: WorkItem) -> int:
        return sum(self._deaths.get(item, Counter()).values())

    def _count_death(self, item: WorkItem, process: WorkerProcess) -> None:
        location = process.location
        self._deaths.setdefault(item, Counter())[location] += 1
        if not location.gpus:
            return
        if item.is_unit and self._health[item.stage].add_fault(item, process):
            self._incidents.add(DIED, item.stage, location, _DEATH)
        elif not item.is_unit and item not in self._errors:
            self._incidents.add(NOT_LOADED, item.stage.partition(_START)[0], location, _DEATH)

    def _forget(self, item: WorkItem) -> None:
        """Forget all that counts against an item."""
        for counts in (self._deaths, self._apart, self._errors):
            counts.pop(item, None)
        self._lost.discard(item)
