"""Decides what each stage books in Ray (CPUs, GPUs, memory), and how many actors it has."""

import math
import os
from dataclasses import dataclass, replace
from typing import Any

from pipeline.run.cluster.booked import TINY, ActorResources, Hardware, TaskResources
from pipeline.run.cluster.gpu_room import GpuRoom, divide
from pipeline.storage.secrets import hide_in_urls
from pipeline.support.errors import ConfigError
from pipeline.support.fields import free, require

# One image takes at most 896 MiB (stages/formats/opening.py), the unit that is made some tens more.
DECODE_MEMORY = 1 << 30
LOOPBACK = "127.0.0.1"
_RESERVED = {"working_dir", "worker_process_setup_hook"}  # keys of a runtime environment that Trimline sets


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """Configures the Ray cluster, and what each stage books in it.

    Neighbouring stages book different amounts of CPU, since Ray fuses neighbours that book the same.

    Args:
        address: `local` starts a cluster on this machine; `auto` or host:port joins a running one.
        connect_s: seconds to wait for a running cluster that does not answer.
        num_cpus, num_gpus, object_store_bytes: of a local cluster; null: all cores (at least 2), all GPUs.
        logs: folder to which Ray's logs of a local cluster are copied at the end; null: they are deleted.
        stall_s: seconds without progress after which a run ends, saying where it is stuck.
        ship: copy this installation's packages to the nodes, which then need not have Trimline installed.
        runtime_env: further needs of the workers, in the form of Ray's runtime environments.
        submit: submit the run to the cluster's job server at `dashboard`, and follow its log.
    """

    address: str = free("local")
    connect_s: float = free(60.0)
    num_cpus: int | None = free(None)
    num_gpus: int | None = free(None)
    object_store_bytes: int | None = free(None)
    logs: str | None = free(None)
    stall_s: float = free(1800.0)
    ship: bool = free(False)
    runtime_env: dict[str, Any] | None = free(None)  # JSON of Ray's, of any form
    submit: bool = free(False)
    dashboard: str | None = free(None)
    read: TaskResources = free(default_factory=lambda: TaskResources(num_cpus=0.2))
    decode: TaskResources = free(default_factory=lambda: TaskResources(num_cpus=0.3))
    encode: ActorResources = free(default_factory=lambda: ActorResources(num_cpus=0.5))
    generate: ActorResources = free(default_factory=lambda: ActorResources(num_cpus=0.6))
    write: TaskResources = free(default_factory=lambda: TaskResources(num_cpus=0.1))

    def __post_init__(self) -> None:
        require(0 < self.connect_s < math.inf, "cluster.connect_s must be a positive number of seconds")
        require(self.stall_s > 0, "cluster.stall_s must be positive")
        reserved = sorted(_RESERVED & (self.runtime_env or {}).keys())
        require(not reserved, f"cluster.runtime_env.{', '.join(reserved)}: Trimline itself sets it")
        require(
            not self.submit or bool(self.dashboard), "cluster.submit needs cluster.dashboard=http://HOST:8265"
        )
        require(self.logs is None or self.address == "local", "cluster.logs is for cluster=local alone")
        shown = {name: part for name, part in (self.runtime_env or {}).items() if name != "env_vars"}
        require(
            hide_in_urls(str(shown)) == str(shown),
            "cluster.runtime_env: Ray writes its URLs into logs, so that they must not hold credentials; "
            "use ~/.netrc or pip.conf on the nodes",
        )
        if self.address == "local":
            require(
                not self.ship and not self.submit, "cluster.address=local: submit and ship need cluster=ray"
            )
            self._require_cpus(self.local_cpus)

    @property
    def local_cpus(self) -> int:
        """The CPUs of a cluster started on this machine."""
        return self.num_cpus or max(2, len(os.sched_getaffinity(0)))

    def tasks(self, stage: str) -> TaskResources:
        """Return the resources of a stage of tasks."""
        return {"read": self.read, "decode": self.decode, "write": self.write}[stage]

    def actors(self, stage: str) -> ActorResources:
        """Return the resources of a stage of actors."""
        return {"encode": self.encode, "generate": self.generate}[stage]

    def device_of(self, stage: str, device: str) -> str:
        """Return the device on which a stage computes: what its actors book, whatever torch sees.

        Args:
            device: `device` of the run, which holds if the stage's share of a GPU is left open.
        """
        booked = self.actors(stage).num_gpus
        return device if booked is None else "cuda" if booked else "cpu"

    def on(self, hardware: Hardware, device: str) -> "Cluster":
        """Fill in the settings left open: shares of a GPU, numbers of actors and the memory of decode.

        Raises:
            ConfigError: the cluster has no room for all actors, for which Ray would wait without a word, or
                what they book contradicts `device`.
        """
        room = self.room_on(hardware, device)
        filled = self._with_actors(hardware, room)._with_memory(hardware.memory)
        filled._require_cpus(hardware.cpus)
        return filled

    def room_on(self, hardware: Hardware, device: str) -> GpuRoom:
        """Divide the cluster's GPUs between the stages; ConfigError if the actors do not fit on them."""
        on_gpu = device == "cuda" or (device == "auto" and hardware.gpus > 0)
        for stage in ("encode", "generate"):
            booked = self.actors(stage).num_gpus
            if booked == 0 and device == "cuda":
                raise ConfigError(
                    f"device=cuda, but cluster.{stage}.num_gpus=0 books no GPU; device=auto computes {stage} "
                    "on the CPU then"
                )
            if booked and device == "cpu":
                raise ConfigError(
                    f"device=cpu uses no GPU, but cluster.{stage}.num_gpus={booked:g} books one; drop either"
                )

        def wanted(stage: str) -> ActorResources:
            actors = self.actors(stage)
            return actors if on_gpu or actors.num_gpus else replace(actors, num_gpus=0.0)

        return divide(hardware, wanted("encode"), wanted("generate"), self._largest_task)

    def _with_actors(self, hardware: Hardware, room: GpuRoom) -> "Cluster":
        """Fill in the numbers of actors, and what each books of GPUs.

        Without GPUs each node gets one of either stage, because an actor's threads use all cores of its node.
        """
        both = self.encode.num_cpus + self.generate.num_cpus + self._largest_task
        nodes_with_room = sum(cpus + TINY >= both for cpus in hardware.node_cpus)

        def filled(stage: str, most: int) -> ActorResources:
            actors, places = self.actors(stage), room.of(stage)
            if places is not None:
                return replace(actors, num_gpus=places.share, num_actors=places.actors)
            count = actors.num_actors or (1 if actors.max_actors else max(1, most))
            return replace(actors, num_gpus=0.0, num_actors=count)

        encode = filled("encode", nodes_with_room)
        free_cpus = hardware.cpus - self._largest_task - (encode.num_actors or 1) * encode.num_cpus
        by_cpus = int(free_cpus / self.generate.num_cpus + TINY)
        return replace(self, encode=encode, generate=filled("generate", min(nodes_with_room, by_cpus)))

    def _with_memory(self, most: int | None) -> "Cluster":
        """Fill in the memory of decode; refuse a task that books more than any node has."""
        for stage in ("read", "decode", "write"):
            booked = self.tasks(stage).memory
            if most is not None and booked is not None and booked > most:
                raise ConfigError(f"cluster.{stage}.memory={booked}: no node has more than {most} bytes")
        if self.decode.memory is not None:
            return self
        memory = DECODE_MEMORY if most is None else min(DECODE_MEMORY, most)
        return replace(self, decode=replace(self.decode, memory=memory))

    @property
    def _largest_task(self) -> float:
        return max(stage.num_cpus for stage in (self.read, self.decode, self.write))

    def _require_cpus(self, num_cpus: float) -> None:
        """Refuse a cluster that is too small; numbers of actors left open count as 1."""
        actors = sum((stage.num_actors or 1) * stage.num_cpus for stage in (self.encode, self.generate))
        if actors + self._largest_task > num_cpus + TINY:
            raise ConfigError(
                f"cluster: the actors book {actors:g} CPUs and the largest task {self._largest_task:g}, "
                f"but the cluster has {num_cpus:g}"
            )
