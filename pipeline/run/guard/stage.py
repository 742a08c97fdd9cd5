"""A stage as Ray calls it: it tells the ledger, and takes a unit that killed its workers aside."""

import gc
import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from pipeline.run.guard.isolated import Alone, Died, Make, answer_alone
from pipeline.run.guard.ledger import Place
from pipeline.run.guard.samples import failed
from pipeline.stages.rows import pack_unit, unpack_unit
from pipeline.support.errors import RunError

DEATHS_ASIDE = 2  # after so many deaths a unit goes to a process of its own
DEATHS_AT_ALL = 5  # after so many it is given up: its workers die though the work is done elsewhere
_START = -1


@dataclass(frozen=True)
class Watch:
    """A stage's name, what makes it, and the handle of the ledger's actor.

    `apart`: whether a unit may be taken apart, and a sample given up. What is answered already may not.
    """

    name: str
    make: Make
    ledger: Any
    apart: bool = True

    def begin(self, place: Place) -> int:
        """How many workers have died at this before."""
        import ray

        return int(ray.get(self.ledger.begin.remote(place, socket.gethostname(), os.getpid())))

    def put_off(self, place: Place) -> None:
        """Not now; it is begun again when there is nothing else under way."""
        self.ledger.put_off.remote(place)

    def end(self, place: Place) -> None:
        """Through with it."""
        self.ledger.end.remote(place)


def watched_actor(name: str) -> type:
    """The class of the actors of stage `name`: Ray shows its name."""
    return type(name, (_Actor,), {})


def watched_task(watch: Watch) -> Callable[[pa.Table], pa.Table]:
    """The function of a stage's tasks: Ray shows its name."""

    def task(batch: pa.Table) -> pa.Table:
        place = _place(watch, batch)
        deaths = watch.begin(place)
        if watch.apart and DEATHS_ASIDE <= deaths < DEATHS_AT_ALL:
            made = answer_alone(watch.name, watch.make, batch)
        else:
            made = watch.make()(_given_up(watch, batch, deaths))
        watch.end(place)
        return made

    task.__name__ = watch.name
    return task


def watched_read(watch: Watch, shards: list[int]) -> Callable[[pa.Table], Iterator[pa.Table]]:
    """The function of the tasks that read: a shard that kills its workers breaks off where it does.

    A batch says which of the pending `shards`.
    """

    def read(batch: pa.Table) -> Iterator[pa.Table]:
        place = (watch.name, shards[batch["pending"][0].as_py()], _START)
        deaths = watch.begin(place)
        if deaths < DEATHS_ASIDE:
            yield from watch.make()(batch)
        else:
            yield from _read_alone(watch, batch, deaths)
        watch.end(place)

    return read


class _Actor:
    """An actor's stage; several threads may have a unit in it.

    A death counts against all units that were under way. So one that has been in a death goes through alone
    from then on: the next death tells the culprit from those that were with it.
    """

    def __init__(self, *, watch: Watch) -> None:
        import ray

        self._watch = watch
        self._gate = Gate()
        actor = ray.get_runtime_context().get_actor_id()  # the same after a restart
        place = (f"{watch.name} (start of actor {actor})", _START, _START)
        if (deaths := watch.begin(place)) > DEATHS_ASIDE:
            raise RunError(f"stage {watch.name}: its worker died {deaths} times while it loaded its model")
        self._stage = watch.make()
        watch.end(place)

    def __call__(self, batch: pa.Table) -> pa.Table:
        """One unit."""
        place = _place(self._watch, batch)
        with self._gate.together():
            suspect = self._watch.begin(place) > 0
            if suspect:
                self._watch.put_off(place)
            else:
                made = self._stage(batch)
        if suspect:
            with self._gate.alone():
                made = self._suspect(batch, self._watch.begin(place))
        self._watch.end(place)
        return made

    def _suspect(self, batch: pa.Table, deaths: int) -> pa.Table:
        """A unit whose workers died, while no other is under way."""
        if not DEATHS_ASIDE <= deaths < DEATHS_AT_ALL:
            return self._stage(_given_up(self._watch, batch, deaths))
        del self._stage  # two models at a time may be more than fit
        gc.collect()
        made = answer_alone(self._watch.name, self._watch.make, batch)
        self._stage = self._watch.make()
        return made


def _given_up(watch: Watch, batch: pa.Table, deaths: int) -> pa.Table:
    """A unit as it is, or, beyond all attempts, with nothing in it to be answered.

    Raises:
        RunError: beyond all attempts, of a stage whose units must stay as they are.
    """
    if deaths < DEATHS_AT_ALL:
        return batch
    row = unpack_unit(batch)
    told = f"{deaths} workers of stage {watch.name} died on this unit"
    if not watch.apart:
        raise RunError(f"{told}: {row.unit.file_name}")
    return pack_unit(failed(row, told))


def _place(watch: Watch, batch: pa.Table) -> Place:
    return watch.name, batch["shard"][0].as_py(), batch["first"][0].as_py()


def _read_alone(watch: Watch, batch: pa.Table, deaths: int) -> Iterator[pa.Table]:
    reader: Any = watch.make()
    read: list[tuple[int, int]] = []
    reason = f"{deaths} workers died on it"
    if deaths < DEATHS_AT_ALL:
        with Alone(watch.make) as process:
            try:
                for unit in process.stream(batch):
                    read.append((unit["first"][0].as_py(), unit["stop"][0].as_py()))
                    yield unit
            except Died as death:
                reason = str(death)
            else:
                return
    yield from reader.broken_off(batch, dict(read), f"reading it killed its worker: {reason}")


class Gate:
    """For threads. Who wants to be alone waits until all others are through, and keeps later ones waiting."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._inside = 0
        self._loners = 0

    @contextmanager
    def together(self) -> Iterator[None]:
        """Go through with others."""
        with self._changed:
            self._changed.wait_for(lambda: not self._loners)
            self._inside += 1
        try:
            yield
        finally:
            self._leave()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Go through without any other."""
        with self._changed:
            self._loners += 1
            self._changed.wait_for(lambda: not self._inside)
            self._inside += 1
        try:
            yield
        finally:
            with self._changed:
                self._loners -= 1
            self._leave()

    def _leave(self) -> None:
        with self._changed:
            self._inside -= 1
            self._changed.notify_all()
