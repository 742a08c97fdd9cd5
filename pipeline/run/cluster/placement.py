"""Reserves a place on a GPU for each actor before the first one starts: language models first, then CLIPs.

Once each GPU has 0.99 taken for a language model, two CLIPs cannot land on one GPU, and no CLIP can take the
room of a language model. Ray alone packs: it would put all CLIPs of a node on its first GPU.
"""

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from pipeline.run.cluster.gpu_room import GpuRoom, Places
from pipeline.support import log
from pipeline.support.errors import RunError

if TYPE_CHECKING:
    from ray.util.placement_group import PlacementGroup

_SAY_AFTER_S = 10.0


@contextmanager
def reserved_places(room: GpuRoom, num_cpus: dict[str, float], wait_s: float) -> Iterator[dict[str, Any]]:
    """Reserve the places of a run's actors until the block ends.

    Args:
        room: of the GPUs; a stage without a GPU, or whose actors may become more, has no place reserved.
        num_cpus: what an actor of each stage books.
        wait_s: seconds to wait for GPUs that others of a shared cluster use.

    Yields:
        By stage, the keyword arguments of `ray.remote` with which its actors take these places.

    Raises:
        RunError: the GPUs have not become free.
    """
    from ray.exceptions import RayError
    from ray.util import remove_placement_group
    from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

    groups: dict[str, PlacementGroup] = {}
    try:
        for stage in ("generate", "encode"):
            places = room.of(stage)
            if places is not None and not places.is_elastic:
                groups[stage] = _group(places, num_cpus[stage])
                _wait(groups[stage], stage, places, wait_s)
            elif stage == "generate" and places is not None and room.encode is not None:
                groups["held"] = _group(places, 0.0)
                groups["held"].wait(timeout_seconds=_SAY_AFTER_S)  # others of a shared cluster may use some
        if "held" in groups:
            remove_placement_group(groups.pop("held"))
        yield {
            stage: {"scheduling_strategy": PlacementGroupSchedulingStrategy(group)}
            for stage, group in groups.items()
        }
    finally:
        for group in groups.values():
            with suppress(RayError):  # the cluster may be gone
                remove_placement_group(group)


def _group(places: Places, num_cpus: float) -> "PlacementGroup":
    """Ask Ray for places, each on a GPU of its own, on as many nodes as possible."""
    from ray.util import placement_group

    cpus = num_cpus * math.ceil(places.actors / places.count)
    place = {"GPU": places.gpus} | ({"CPU": cpus} if cpus else {})
    group: PlacementGroup = placement_group([place] * places.count, strategy="SPREAD")
    return group


def _wait(group: "PlacementGroup", stage: str, places: Places, wait_s: float) -> None:
    """Wait until the places are there; RunError after `wait_s` seconds."""
    began, said = time.monotonic(), False
    while not group.wait(timeout_seconds=min(_SAY_AFTER_S, wait_s)):
        waited = f"{places.count} places on GPUs for {stage}, {places.gpus:g} of a GPU each, and their CPUs"
        if time.monotonic() - began >= wait_s:
            raise RunError(
                f"no room within cluster.stall_s={wait_s:g} s for {waited}: others use the cluster; run the "
                "same command again to go on"
            )
        if not said:
            log.tell("waiting", f"waiting up to cluster.stall_s={wait_s:g} s for {waited}")
            said = True
