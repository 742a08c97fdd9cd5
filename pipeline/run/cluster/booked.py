"""Declares what a task and an actor of a stage book in Ray, and what a cluster has."""

from dataclasses import dataclass

from pipeline.support.fields import free, require

TINY = 1e-9  # against rounding: 0.4 / 0.1 is 4
_POSITIVE = "cluster: num_cpus of a stage must be positive, or Ray starves it"


@dataclass(frozen=True, kw_only=True)
class TaskResources:
    """Declares the CPUs and bytes that one task of a stage books. As many run as fit beside the actors.

    `memory` null: for decode what one image may take, 1 GiB, or all that the largest node has, if it has
    less; for the others none.
    """

    num_cpus: float = free()
    memory: int | None = free(None)

    def __post_init__(self) -> None:
        require(self.num_cpus > 0, _POSITIVE)
        require(self.memory is None or self.memory >= 0, "cluster: memory must not be negative")


@dataclass(frozen=True, kw_only=True)
class ActorResources:
    """Declares the CPUs and GPUs that one actor of a stage books, and the number of actors.

    `num_gpus` null: one language model a GPU, with CLIPs beside some of them; 0 in a cluster without GPUs.
    From 1 on: so many whole GPUs, none of which the other stage shares. `num_actors` null: as many as the
    GPUs can take; without GPUs one on each node that has room for one actor of either stage. `max_actors`:
    the stage may grow to so many. `threads` null: torch uses all cores of the node, whatever the actor books.
    """

    num_cpus: float = free()
    num_gpus: float | None = free(None)
    num_actors: int | None = free(None)
    max_actors: int | None = free(None)
    threads: int | None = free(None)

    def __post_init__(self) -> None:
        require(self.num_cpus > 0, _POSITIVE)
        require(self.num_gpus is None or self.num_gpus >= 0, "cluster: num_gpus must not be negative")
        require(self.num_actors is None or self.num_actors >= 1, "cluster: num_actors must be at least 1")
        least = self.num_actors or 1
        require(
            self.max_actors is None or self.max_actors >= least,
            f"cluster: max_actors must be at least {least}, the number of actors at the start",
        )
        require(self.threads is None or self.threads >= 1, "cluster: threads must be at least 1")


@dataclass(frozen=True)
class Hardware:
    """Holds what a cluster has: CPUs and GPUs of each node, and the largest node's memory.

    `node_gpus` is as long as `node_cpus`, or empty: no node has any. `memory` is the bytes that Ray lets
    tasks book on one node; None: unknown.
    """

    node_cpus: tuple[float, ...]
    node_gpus: tuple[float, ...] = ()
    memory: int | None = None

    @property
    def cpus(self) -> float:
        """The CPUs of all nodes."""
        return sum(self.node_cpus)

    @property
    def gpus(self) -> int:
        """The whole GPUs of all nodes."""
        return sum(map(int, self.node_gpus))
