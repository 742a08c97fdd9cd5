"""Answers the units of an actor whose GPU is at fault on another GPU.

Ray Data neither takes units back from an actor nor starts another in its place, so the actor stays: it keeps
its booking, so that nobody else is given its GPU, and hands its units to an actor that it starts itself. That
one waits for a free GPU: at the latest when the other actors of the stage have nothing left to do.
"""

import threading
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, cast

import pyarrow as pa

from pipeline.run.guard.location import WorkerProcess
from pipeline.support.errors import RunError, described

if TYPE_CHECKING:
    from pipeline.run.guard.stage import Watch

_POLL_S = 2.0


class Substitute:
    """Hands units to an actor that books what this process's actor has booked, on another GPU."""

    def __init__(self, watch: "Watch", process: WorkerProcess, reason: str, kind: type) -> None:
        """Prepare for it; the actor starts with the first unit.

        Args:
            process: this one, whose GPU is at fault.
            reason: what is wrong with the GPU.
            kind: the class of the actor; it is made with `watch`, and called with units.
        """
        self._watch, self._process, self._reason, self._kind = watch, process, reason, kind
        self._starting = threading.Lock()
        self._actor: Any = None  # a Ray actor handle
        self._is_ready = False

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Run one unit through the stage.

        Raises:
            RunError: no other GPU becomes free, or what the stage itself raises.
        """
        import ray

        with self._starting:
            if self._actor is None:
                self._actor = self._start()
        ready = None if self._is_ready else self._actor.is_ready.remote()
        answer = self._actor.answer.remote(batch)
        while not ray.wait([answer], timeout=_POLL_S)[0]:
            if ready is not None and ray.wait([ready], timeout=0)[0]:
                ready, self._is_ready = None, True
            if ready is not None:
                self._require_hope()
        try:
            return cast(pa.Table, ray.get(answer))
        except ray.exceptions.RayError as error:
            cause = getattr(error, "cause", None)
            text = described(cause) if isinstance(cause, Exception) else str(error).strip().splitlines()[-1]
            raise RunError(text) from None

    def _start(self) -> Any:
        import ray
        from ray._private.state import available_resources_per_node
        from ray.util.placement_group import get_current_placement_group
        from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

        group = get_current_placement_group()
        left = available_resources_per_node()  # type: ignore[no-untyped-call]
        if has_room(left.values(), self._watch.num_gpus):
            group = None  # there is room beside the run's own places
        options = {
            "num_cpus": 0,  # this process uses none
            "num_gpus": self._watch.num_gpus,
            "max_restarts": -1,
            "max_task_retries": -1,
            "max_concurrency": self._watch.at_once,
            # of a group any place: those of actors that have ended are free
            "scheduling_strategy": PlacementGroupSchedulingStrategy(group) if group else "DEFAULT",
        }
        members = {"answer": _answer, "is_ready": _is_ready, "comes_after_another": True}
        kind = type(self._watch.name, (self._kind,), members)
        return ray.remote(kind).options(**options).remote(watch=self._watch)

    def _require_hope(self) -> None:
        """End the run if nobody works on a unit any more, and yet no GPU has become free."""
        quiet_s, in_work = self._watch.ledger.in_work()
        is_busy = any(entry.item.is_unit or entry.item.shard is None for entry in in_work)
        if not is_busy and quiet_s >= self._watch.free_gpu_s:
            raise RunError(
                f"stage {self._watch.name}: {self._process.location} cannot be used ({self._reason}), and "
                f"no other GPU became free in {quiet_s:.0f} s"
            )


def has_room(nodes: Iterable[Mapping[str, float]], num_gpus: float) -> bool:
    """Tell whether one node has so much of its GPUs left, outside of all placement groups.

    The 0.01 that is left of each GPU says nothing in sum: over 100 nodes it seems to be a whole one.

    Args:
        nodes: what each node has left.
    """
    return any(left.get("GPU", 0.0) >= num_gpus for left in nodes)


def _answer(actor: Any, batch: pa.Table) -> pa.Table:
    """Run one unit; Ray does not call `__call__`."""
    return cast(pa.Table, actor(batch))


def _is_ready(actor: Any) -> bool:
    """Return once the actor has started."""
    return True
