"""Test several units in one actor, one of which kills it: only that unit is isolated.

Real Ray and real deaths.
"""

import functools
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

from pipeline.output.units import Unit
from pipeline.run.cluster.resources import Cluster
from pipeline.run.cluster.start import start_ray
from pipeline.run.guard.actor import watched_actor
from pipeline.run.guard.ledger_handle import start_ledger
from pipeline.run.guard.shared_lock import SharedLock
from pipeline.run.guard.stage import Watch
from pipeline.stages.rows import UnitRow, pack_unit, unpack_unit
from pipeline.support.schema import REQUESTS

CULPRIT, AT_ONCE = 3, 4


class Deadly:
    """A stage that logs its units and processes, and dies of one unit while others are inside."""

    def __init__(self, log: Path) -> None:
        self._log = log

    def __call__(self, batch: pa.Table) -> pa.Table:
        row = unpack_unit(batch)
        first = row.unit.first
        log_event(self._log, "begin", first)
        _wait(lambda: len(_firsts(self._log, "begin")) >= AT_ONCE)
        if first == CULPRIT and row.tables["requests"]["status"][0].as_py() == "ok":
            # Ray repeats a unit that has ended here but whose result it has not fetched
            _wait(lambda: _firsts(self._log, "end", os.getpid()) <= _firsts(self._log, "fetched"))
            os.kill(os.getpid(), signal.SIGKILL)
        if first != CULPRIT and CULPRIT in _firsts(self._log, "begin", os.getpid()):
            time.sleep(100)  # until the culprit kills this process
        log_event(self._log, "end", first)
        return pack_unit(row.passed("generate", time.time(), row.tables))


def log_event(log: Path, event: str, first: int) -> None:
    with log.open("a") as file:
        print(event, first, os.getpid(), file=file, flush=True)


def _firsts(log: Path, event: str, pid: int | None = None) -> set[int]:
    """Return the units of which an event was logged, by any process or by one."""
    lines = [line.split() for line in log.read_text().splitlines()]
    return {int(first) for name, first, of in lines if name == event and pid in (None, int(of))}


def _wait(holds: Callable[[], bool], seconds: float = 100) -> None:
    until = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.01)


def unit(first: int) -> pa.Table:
    request = dict.fromkeys(REQUESTS.names) | {"arm": 0, "key": f"{first}", "sample": first, "status": "ok"}
    table = pa.Table.from_pylist([request], schema=REQUESTS)
    row = UnitRow(Unit(0, first, first + 1, False), {"requests": table})
    return pack_unit(row)


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.usefixtures("ray")
@pytest.mark.filterwarnings("ignore:.*ray_remote_args")  # as pipeline/run/flow.py does
def test_only_the_unit_that_kills_is_isolated(tmp_path):
    import ray
    import ray.data

    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers cannot import this file
    start_ray(Cluster(), "cpu")
    ray.data.DataContext.get_current().enable_progress_bars = False
    ledger = start_ledger()
    log = tmp_path / "log"
    watch = Watch("generate", functools.partial(Deadly, log), ledger, at_once=AT_ONCE)
    units = ray.data.from_blocks([unit(first) for first in range(8)])
    processed = units.map_batches(
        watched_actor("generate"),
        batch_size=1,
        batch_format="pyarrow",
        zero_copy_batch=True,
        fn_constructor_kwargs={"watch": watch},
        num_cpus=0.6,
        compute=ray.data.ActorPoolStrategy(size=1, enable_true_multi_threading=True),
        max_concurrency=AT_ONCE,
        max_restarts=-1,
        max_task_retries=-1,
    )
    rows = []
    for batch in processed.iter_batches(batch_size=1, batch_format="pyarrow", prefetch_batches=0):
        rows.append(unpack_unit(batch))
        log_event(log, "fetched", rows[-1].unit.first)
    rows.sort(key=lambda row: row.unit.first)
    assert [row.unit.first for row in rows] == list(range(8))
    statuses = [row.tables["requests"]["status"][0].as_py() for row in rows]
    assert statuses == ["failed" if first == CULPRIT else "ok" for first in range(8)]
    assert "died of SIGKILL on this sample alone" in rows[CULPRIT].tables["requests"]["error"][0].as_py()
    lines = [line.split() for line in log.read_text().splitlines()]
    begun = [int(first) for event, first, _ in lines if event == "begin"]
    # twice in an actor (with others, then alone), twice in child processes (the unit, then its sample), and
    # once more as the failed row that replaces it
    assert begun.count(CULPRIT) == 5
    for first in set(range(8)) - {CULPRIT}:
        assert begun.count(first) <= 2, lines  # once together with the culprit, and once more
    assert most_at_once(lines) == AT_ONCE


def most_at_once(lines: list[list[str]]) -> int:
    """Count the most units that one process held at once."""
    inside: dict[str, set[str]] = {}
    most = 0
    for event, first, pid in lines:
        units = inside.setdefault(pid, set())
        units.add(first) if event == "begin" else units.discard(first)
        most = max(most, len(units))
    return most


def test_many_threads_hold_a_shared_lock():
    lock, meeting = SharedLock(), threading.Barrier(3)

    def enter():
        with lock.shared():
            meeting.wait(timeout=60)  # until the two other threads are inside too

    threads = [threading.Thread(target=enter) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert not meeting.broken and not any(thread.is_alive() for thread in threads)


def test_one_thread_holds_an_exclusive_lock():
    lock, inside, holders = SharedLock(), [], []

    def enter(way, name):
        with way():
            inside.append(name)
            time.sleep(0.02)
            holders.append(frozenset(inside))
            inside.remove(name)

    ways = [lock.shared, lock.shared, lock.shared, lock.exclusive] * 6
    threads = [threading.Thread(target=enter, args=(way, number)) for number, way in enumerate(ways)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert len(holders) == len(ways)
    loners = {number for number in range(len(ways)) if number % 4 == 3}
    assert all(len(group) == 1 for group in holders if group & loners)
