"""Runs a stage in its actors, and finds the fault when one dies, raises or loses its GPU.

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

On a GPU three things differ. An error of the device ends the process, which could use it no more; that is no
death at a unit, unless the same unit meets one again. A unit that is to run in a separate process does so
before the actor loads its model, after a restart if need be: the GPU may not hold the model twice. And before
a row fails there, a sample that was answered before is tried: if it fails, too, the GPU is at fault.
"""

import gc
import os
import threading
import time
from contextlib import suppress
from functools import partial
from typing import ClassVar, cast

import pyarrow as pa

from pipeline.run.guard.faults import (
    GIVE_UP_AFTER,
    ISOLATE_AFTER,
    DeviceBroken,
    DeviceLost,
    NotStarted,
    Run,
    StageRaised,
    catching,
    ends_run,
)
from pipeline.run.guard.isolated import answer_controlled, answer_isolated
from pipeline.run.guard.ledger import ActorStart, WorkItem, start_of
from pipeline.run.guard.location import this_process
from pipeline.run.guard.pieces import Passed, answer_in_pieces
from pipeline.run.guard.samples import count_open, split_by_sample
from pipeline.run.guard.shared_lock import SharedLock
from pipeline.run.guard.stage import PATIENCE, Watch, failed_if_given_up
from pipeline.run.guard.substitute import Substitute
from pipeline.stages.rows import pack_unit, unpack_unit
from pipeline.support.errors import ConfigError, RunError, described
from pipeline.support.memory import keep_freed_memory

# A start that fails is tried again after so many seconds, and more the next time: what has just died may
# still hold the GPU's memory, so that a model seems not to fit, and a server may have too much to do.
_PAUSE_S = 2.0
_APART_FIRST_S = 10.0  # how long the other threads' units wait for those that run apart


def watched_actor(name: str) -> type:
    """Make the class of the stage's actors, with the stage's name for Ray to show."""
    return type(name, (_Actor,), {})


class _Actor:
    """Runs an actor's stage; several threads may each have a unit in it."""

    comes_after_another: ClassVar[bool] = False  # on its GPU, whose memory may not be free yet

    def __init__(self, *, watch: Watch) -> None:
        keep_freed_memory()
        self._watch, self._process = watch, this_process()
        self._start = start_of(watch.name, self._process)
        self._lock, self._loading = SharedLock(), threading.Lock()
        self._stage: Run | None = None
        self._answered: pa.Table | None = None  # a sample that the stage can answer
        self._substitute: Substitute | None = None
        start = watch.ledger.start(watch.name, self._process)
        self._may_wait = self._is_on_gpu and (start.is_restart or self.comes_after_another)
        self._apart, self._none_apart = set(start.apart), threading.Event()
        if start.retired is not None:
            self._retire(start.retired)
        elif start.deaths > ISOLATE_AFTER:
            self._give_up_start(start)
        elif self._apart:
            watch.ledger.defer(self._start)
            return
        else:
            self._load(start.deaths)
        self._none_apart.set()

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Run one unit through the stage."""
        item = self._watch.item(batch)
        if item not in self._apart and self._watch.at_once > 1:
            self._none_apart.wait(_APART_FIRST_S)
            self._none_apart.set()
        try:
            answered = self._run_beside_others(item, batch)
            if answered is None:
                answered = self._run_alone(item, batch)
        except DeviceLost as lost:
            self._watch.ledger.lose(item, self._process, str(lost))
            os._exit(1)  # Ray restarts the actor, and calls it with the same units again
        if answered is None:
            assert self._substitute is not None
            return self._substitute(batch)
        return self._watch.end(batch, answered)

    # --- starts ---

    @property
    def _is_on_gpu(self) -> bool:
        return bool(self._process.location.gpus)

    def _load(self, deaths: int) -> None:
        """Load the model; after an exception end the process, so that Ray starts it again."""
        ledger, name = self._watch.ledger, self._watch.name
        try:
            self._stage = cast(Run, self._watch.make())
        except BaseException as error:
            if ends_run(error) and not (isinstance(error, ConfigError) and self._may_wait):
                if isinstance(error, ConfigError) and self._is_on_gpu:  # others may have more memory
                    raise ConfigError(f"{error} (on {self._process.location})") from error
                raise
            ledger.fail_start(name, self._process, described(error))
            time.sleep(_PAUSE_S * (deaths + 1))
            os._exit(1)
        ledger.end(self._start)

    def _give_up_start(self, start: ActorStart) -> None:
        """Hand the units to another GPU; RunError if this process has none, and so is not at fault."""
        if start.error:
            told = f"its model could not be loaded, {start.deaths} times, the last time with {start.error}"
        else:
            told = f"its worker died {start.deaths} times while it loaded its model"
        if not self._is_on_gpu:
            raise RunError(f"stage {self._watch.name}: {told}")
        self._retire(told)

    def _retire(self, reason: str, item: WorkItem | None = None) -> None:
        """Use this GPU no more: another one answers this actor's units."""
        self._watch.ledger.retire(self._watch.name, self._process, item, reason)
        self._substitute = Substitute(self._watch, self._process, reason, type(self))

    # --- units ---

    def _run_beside_others(self, item: WorkItem, batch: pa.Table) -> Passed | None:
        """Run a unit that is under no suspicion; None if it has to run alone, or elsewhere."""
        with self._lock.shared():
            if item in self._apart or self._substitute is not None:
                return None
            if self._watch.ledger.begin(item, self._process) == 0:
                with suppress(StageRaised):
                    return Passed(self._run(batch))
            self._watch.ledger.defer(item)
        return None

    def _run_alone(self, item: WorkItem, batch: pa.Table) -> Passed | None:
        """Run a unit while no other is in the actor; None if another GPU has to answer it."""
        with self._lock.exclusive():
            if self._substitute is not None:
                return None
            try:
                return self._run_suspect(item, batch, self._watch.ledger.begin(item, self._process))
            except DeviceBroken as broken:
                self._retire(str(broken), item)
                return None
            finally:
                self._apart.discard(item)
                if not self._apart:
                    self._none_apart.set()

    def _run_suspect(self, item: WorkItem, batch: pa.Table, deaths: int) -> Passed:
        """Run a unit that raised an exception or whose workers died."""
        if deaths < GIVE_UP_AFTER and (deaths >= ISOLATE_AFTER or item in self._apart):
            return self._run_elsewhere(item, batch, PATIENCE if deaths < ISOLATE_AFTER else None)
        given = failed_if_given_up(self._watch, batch, deaths)
        answered = answer_in_pieces(self._watch.name, self._run, given)
        if answered.hopeless is None or self._still_answers():
            return answered
        elsewhere = self._run_elsewhere(item, given, PATIENCE)
        return answered if elsewhere.hopeless else elsewhere

    def _run(self, batch: pa.Table) -> pa.Table:
        result = catching(self._made_stage(), on_gpu=self._is_on_gpu)(batch)
        if self._answered is None:
            open_samples = (piece for piece in split_by_sample(unpack_unit(batch)) if count_open(piece))
            self._answered = next((pack_unit(piece) for piece in open_samples), None)
            if self._answered is not None and self._is_on_gpu:
                self._watch.ledger.keep_sample(self._watch.name, self._answered)
        return result

    def _made_stage(self) -> Run:
        """Return the stage, and load its model first if a unit in a separate process came before."""
        with self._loading:
            if self._stage is None:
                self._watch.ledger.begin(self._start, self._process)
                self._load(0)
            return cast(Run, self._stage)

    def _still_answers(self) -> bool:
        """Tell whether the stage answers what it has answered before: an exception may have broken it."""
        if self._answered is None:
            return False
        with suppress(StageRaised):
            self._run(self._answered)
            return True
        return False

    def _run_elsewhere(self, item: WorkItem, batch: pa.Table, patience: int | None = None) -> Passed:
        """Run a unit in a separate process; memory may not hold the model twice."""
        if self._is_on_gpu:
            return self._run_apart(item, batch, patience)
        self._stage = None  # the next unit loads it again
        gc.collect()
        return answer_isolated(self._watch.name, self._watch.make, batch, patience)

    def _run_apart(self, item: WorkItem, batch: pa.Table, patience: int | None) -> Passed:
        """Run a unit in a separate process, alone on the GPU; DeviceBroken if that is at fault."""
        watch = self._watch
        if self._stage is not None:  # torch gives a GPU's memory back at the process's end alone
            watch.ledger.set_apart(item, self._process)
            os._exit(1)
        known = partial(watch.ledger.sample, watch.name)
        for attempt in range(ISOLATE_AFTER + 1):
            try:
                return answer_controlled(watch.name, watch.make, batch, known, patience)
            except NotStarted as error:
                reason = str(error)
                time.sleep(_PAUSE_S * (attempt + 1))
        raise DeviceBroken(f"the model could not be loaded: {reason}")
