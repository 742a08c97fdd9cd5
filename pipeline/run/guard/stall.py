"""Ends a run that makes no progress any more, and says where it is stuck."""

import queue
import threading
from collections.abc import Iterable, Iterator
from typing import TypeVar

from pipeline.run.guard.ledger import InWork, WorkItem
from pipeline.run.guard.ledger_handle import LedgerHandle
from pipeline.support.errors import RunError

Item = TypeVar("Item")
_POLL_S = 5.0
_MOST_NAMED = 5


def unless_stalled(items: Iterable[Item], ledger: LedgerHandle, stall_s: float) -> Iterator[Item]:
    """Yield the items as they arrive.

    Raises:
        RunError: for `stall_s` seconds no item arrived, and no stage began or ended a unit either.
    """
    # A thread iterates, so that this one can look at the ledger while no item arrives.
    arrivals: queue.Queue[Item | _End] = queue.Queue(maxsize=64)
    threading.Thread(target=_fetch, args=(items, arrivals), daemon=True).start()
    while True:
        try:
            arrival = arrivals.get(timeout=min(_POLL_S, stall_s))
        except queue.Empty:
            quiet_s, in_work = ledger.in_work()
            if quiet_s >= stall_s:
                raise RunError(_message(quiet_s, in_work)) from None
            continue
        if not isinstance(arrival, _End):
            yield arrival
        elif arrival.error is None:
            return
        else:
            raise arrival.error


class _End:
    """Marks the end of the items: exhausted, or broken off by an error."""

    def __init__(self, error: BaseException | None = None) -> None:
        self.error = error


def _fetch(items: Iterable[Item], arrivals: "queue.Queue[Item | _End]") -> None:
    try:
        for item in items:
            arrivals.put(item)
    except BaseException as error:  # noqa: BLE001 - raised again in the waiting thread
        arrivals.put(_End(error))
    else:
        arrivals.put(_End())


def _message(quiet_s: float, in_work: list[InWork]) -> str:
    places = [
        f"stage {_place(item)} for {quiet_s:.0f} s or more (pid {process.pid} on {process.location.host})"
        for item, process in ((entry.item, entry.process) for entry in in_work)
    ]
    more = f", and {len(places) - _MOST_NAMED} more" if len(places) > _MOST_NAMED else ""
    where = ", ".join(places[:_MOST_NAMED]) + more
    if not in_work:
        where = "no stage has received a unit: does the cluster have the CPUs and GPUs that the stages book?"
    return (
        f"no progress for {quiet_s:.0f} s: {where}; if a unit may take longer, raise cluster.stall_s; "
        "run the same command again to go on"
    )


def _place(item: WorkItem) -> str:
    shard = "" if item.shard is None else f" at shard {item.shard}"
    return item.stage + shard + ("" if item.first is None else f", samples from {item.first} on")
