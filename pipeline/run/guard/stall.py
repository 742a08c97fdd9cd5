"""The driver's side: the ledger's actor, and a run that says where it is stuck instead of waiting on."""

import queue
import threading
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

from pipeline.run.guard.ledger import Begun, Ledger
from pipeline.support.errors import RunError

Item = TypeVar("Item")
_ASK_S = 5.0
_MOST_NAMED = 5


def start_ledger() -> Any:
    """The handle of a ledger on this node, which a node that is lost does not take along."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = ray.get_runtime_context().get_node_id()
    place = NodeAffinitySchedulingStrategy(here, soft=False)
    return ray.remote(Ledger).options(num_cpus=0, max_restarts=0, scheduling_strategy=place).remote()


def unless_stuck(items: Iterable[Item], ledger: Any, stall_s: float) -> Iterator[Item]:
    """The items as they come.

    Raises:
        RunError: for `stall_s` seconds none came, and no stage began or ended anything either.
    """
    import ray

    coming: queue.Queue[tuple[str, Any]] = queue.Queue(maxsize=64)
    threading.Thread(target=_fetch, args=(items, coming), daemon=True).start()
    while True:
        try:
            kind, value = coming.get(timeout=min(_ASK_S, stall_s))
        except queue.Empty:
            quiet_s, begun = ray.get(ledger.standing.remote())
            if quiet_s >= stall_s:
                raise RunError(_told(quiet_s, begun)) from None
            continue
        if kind == "item":
            yield value
        elif kind == "error":
            raise value
        else:
            return


def _fetch(items: Iterable[Any], coming: "queue.Queue[tuple[str, Any]]") -> None:
    try:
        for item in items:
            coming.put(("item", item))
    except BaseException as error:  # noqa: BLE001 - it is raised in the thread that waits
        coming.put(("error", error))
    else:
        coming.put(("end", None))


def _told(quiet_s: float, begun: list[Begun]) -> str:
    where = [
        f"stage {_place(item)} for {quiet_s:.0f} s or more (pid {item.pid} on {item.node})" for item in begun
    ]
    more = f", and {len(where) - _MOST_NAMED} more" if len(where) > _MOST_NAMED else ""
    told = ", ".join(where[:_MOST_NAMED]) + more
    if not begun:
        told = "no stage has been given anything: does the cluster have what the stages book?"
    return (
        f"nothing has moved for {quiet_s:.0f} s: {told}; if a unit may take longer, raise cluster.stall_s; "
        "run the same command again to go on"
    )


def _place(item: Begun) -> str:
    stage, shard, first = item.place
    if shard < 0:
        return stage
    return f"{stage} at shard {shard}" + (f", samples from {first} on" if first >= 0 else "")
