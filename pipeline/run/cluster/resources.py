"""What the stages book of a cluster, and how many actors there are."""

import math
import os
from dataclasses import dataclass, replace
from typing import Any

from pipeline.support.errors import ConfigError
from pipeline.support.fields import free, require

# Of a GPU: CLIP takes a fraction of the language model's time and memory. One actor of each fits on a GPU,
# and four of CLIP's beside one of the language model, so that wherever Ray packs them, all find a place.
GPU_SHARES = {"encode": 0.1, "generate": 0.6}
_GENERATE_PER_ENCODE = 4
_TINY = 1e-9


_OURS = {"working_dir", "worker_process_setup_hook"}  # of a runtime environment
_POSITIVE = "cluster: num_cpus of a stage must be positive, or Ray starves it"


@dataclass(frozen=True, kw_only=True)
class TaskResources:
    """What one task of a stage books: there are as many as fit beside the actors."""

    num_cpus: float = free()

    def __post_init__(self) -> None:
        require(self.num_cpus > 0, _POSITIVE)


@dataclass(frozen=True, kw_only=True)
class ActorResources:
    """What one actor of a stage books, and how many there are.

    `num_gpus` null: none without a GPU in the cluster, else the stage's share of one. `num_actors` null: as
    many as the cluster's GPUs can take, without any one on each node that has room for both stages'.
    `threads` null: torch may use all cores of the node, whatever is booked.
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
    """What a cluster has."""

    node_cpus: tuple[float, ...]
    gpus: float = 0.0

    @property
    def cpus(self) -> float:
        return sum(self.node_cpus)


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """The Ray cluster: `address` is `local` for one started here, `auto` or host:port for one that runs.

    Stages differ in what they book, since Ray fuses neighbours that book alike.

    Args:
        num_cpus, num_gpus, object_store_bytes: of a local cluster; null: all cores (at least 2), all GPUs.
        stall_s: seconds in which nothing moves before a run ends, and says where it was.
        ship: send these packages to the nodes, which then need no Trimline of their own.
        runtime_env: what else the nodes' workers need, as Ray's runtime environments have it.
        submit: hand the run to the cluster's job server at `dashboard`, and follow its log.
    """

    address: str = free("local")
    num_cpus: int | None = free(None)
    num_gpus: int | None = free(None)
    object_store_bytes: int | None = free(None)
    stall_s: float = free(1800.0)
    ship: bool = free(False)
    runtime_env: dict[str, Any] | None = free(None)
    submit: bool = free(False)
    dashboard: str | None = free(None)
    read: TaskResources = free(default_factory=lambda: TaskResources(num_cpus=0.2))
    decode: TaskResources = free(default_factory=lambda: TaskResources(num_cpus=0.3))
    encode: ActorResources = free(default_factory=lambda: ActorResources(num_cpus=0.5))
    generate: ActorResources = free(default_factory=lambda: ActorResources(num_cpus=0.6))
    write: TaskResources = free(default_factory=lambda: TaskResources(num_cpus=0.1))

    def __post_init__(self) -> None:
        require(self.stall_s > 0, "cluster.stall_s must be positive")
        taken = sorted(_OURS & (self.runtime_env or {}).keys())
        require(not taken, f"cluster.runtime_env.{', '.join(taken)}: Trimline itself sets it")
        require(
            not self.submit or bool(self.dashboard), "cluster.submit needs cluster.dashboard=http://HOST:8265"
        )
        if self.address == "local":
            require(
                not self.ship and not self.submit, "cluster.address=local: submit and ship need cluster=ray"
            )
            self._require_cpus(self.local_cpus)

    @property
    def local_cpus(self) -> int:
        return self.num_cpus or max(2, len(os.sched_getaffinity(0)))

    def on(self, hardware: Hardware, device: str) -> "Cluster":
        """These settings with what was left open filled in: each actor's GPUs and the number of actors.

        Raises:
            ConfigError: Ray would wait for ever, without a message, for room for all of the actors.
        """
        filled = self._with_shares(hardware, device)._with_actors(hardware)
        filled._require_cpus(hardware.cpus)
        filled._require_gpus(hardware.gpus)
        return filled

    def _with_shares(self, hardware: Hardware, device: str) -> "Cluster":
        on_gpu = device == "cuda" or (device == "auto" and hardware.gpus > 0)
        shares = {
            name: (share if on_gpu else 0.0) if own.num_gpus is None else own.num_gpus
            for name, share in GPU_SHARES.items()
            for own in [getattr(self, name)]
        }
        return self._each(num_gpus=shares)

    def _with_actors(self, hardware: Hardware) -> "Cluster":
        """On CPUs one of each on every node, since its threads take the whole node's cores."""
        encode, generate = (
            own.num_actors or (1 if own.max_actors else None) for own in (self.encode, self.generate)
        )
        both = self.encode.num_cpus + self.generate.num_cpus + self._largest_task
        nodes = sum(cpus + _TINY >= both for cpus in hardware.node_cpus)
        if encode is None:
            wanted = math.ceil(int(hardware.gpus) / _GENERATE_PER_ENCODE)
            encode = max(1, wanted if self.encode.num_gpus else nodes)
        if generate is None:
            room = self._generate_on_gpus(encode, hardware.gpus) if self.generate.num_gpus else nodes
            left = hardware.cpus - self._largest_task - encode * self.encode.num_cpus
            generate = max(1, min(room, int(left / self.generate.num_cpus + _TINY)))
        return self._each(num_actors={"encode": encode, "generate": generate})

    def _each(self, **values: dict[str, Any]) -> "Cluster":
        stages = {
            stage: replace(getattr(self, stage), **{name: own[stage] for name, own in values.items()})
            for stage in GPU_SHARES
        }
        return replace(self, **stages)

    @property
    def _largest_task(self) -> float:
        return max(stage.num_cpus for stage in (self.read, self.decode, self.write))

    def _generate_on_gpus(self, encode: int, gpus: float) -> int:
        """How many actors of `generate` find a GPU if those of `encode` are packed as badly as can be."""
        own, other = self.generate.num_gpus or 0.0, self.encode.num_gpus or 0.0
        if own >= 1:
            return int((gpus - encode * math.ceil(other)) / own + _TINY)
        beside = int((1 - own) / other + _TINY) if other else encode  # of encode's that leave room for one
        return (int(gpus) - encode // (beside + 1)) * int(1 / own + _TINY)

    def _require_cpus(self, num_cpus: float) -> None:
        """With one actor where their number is still open."""
        actors = sum((stage.num_actors or 1) * stage.num_cpus for stage in (self.encode, self.generate))
        if actors + self._largest_task > num_cpus + _TINY:
            raise ConfigError(
                f"cluster: the actors book {actors:g} CPUs and the largest task {self._largest_task:g}, "
                f"but the cluster has {num_cpus:g}"
            )

    def _require_gpus(self, num_gpus: float) -> None:
        encode, generate = self.encode, self.generate
        booked = sum((stage.num_actors or 1) * (stage.num_gpus or 0) for stage in (encode, generate))
        if booked > num_gpus + _TINY:
            raise ConfigError(f"cluster: the actors book {booked:g} GPUs, but the cluster has {num_gpus:g}")
        if not generate.num_gpus:
            return
        room = self._generate_on_gpus(encode.num_actors or 1, num_gpus)
        if (generate.num_actors or 1) > room:
            raise ConfigError(
                f"cluster: of {generate.num_actors} actors of generate, {generate.num_gpus:g} GPUs each, "
                f"{room} are sure to find a place beside {encode.num_actors} of encode, {encode.num_gpus:g} "
                f"each, on {num_gpus:g} GPUs; lower cluster.encode.num_actors or either's num_gpus"
            )
