"""Says where a process computes: its node, and the GPUs that Ray has given to it."""

import os
import socket
import sys
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Location:
    """Names a node and the GPUs of it that a process has booked.

    Attributes:
        host: the node's name.
        node: Ray's id of the node: several nodes may share a host's name.
        gpus: Ray's ids of the GPUs; empty for a process that computes on the CPU.
    """

    host: str
    node: str = ""
    gpus: tuple[str, ...] = ()

    def __str__(self) -> str:
        if not self.gpus:
            return f"node {self.host}"
        return f"GPU{'s' * (len(self.gpus) > 1)} {', '.join(self.gpus)} of node {self.host}"


@dataclass(frozen=True, slots=True)
class WorkerProcess:
    """Names a process that runs a stage; `actor` is Ray's id, the same after a restart, "" for a task."""

    location: Location
    pid: int
    actor: str = ""


def this_process() -> WorkerProcess:
    """Describe the calling process; outside Ray it has no GPU and no actor."""
    ray = sys.modules.get("ray")
    if ray is None or not ray.is_initialized():
        return WorkerProcess(Location(socket.gethostname()), os.getpid())
    context = ray.get_runtime_context()
    gpus = tuple(sorted(str(gpu) for gpu in ray.get_gpu_ids()))
    location = Location(socket.gethostname(), context.get_node_id(), gpus)
    return WorkerProcess(location, os.getpid(), context.get_actor_id() or "")
