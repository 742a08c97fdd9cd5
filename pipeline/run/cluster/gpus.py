"""Asks torch on each node with GPUs what it can use, before a model is loaded.

Ray counts the GPUs that a node has. Whether torch can compute on them is another matter: its build may be for
CPUs, or newer than the node's driver. An actor there would compute on the CPU, a hundred times slower.
"""

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from pipeline.run.cluster.nodes import alive_nodes, hardware
from pipeline.run.cluster.resources import Cluster
from pipeline.support import log
from pipeline.support.errors import ConfigError

BFLOAT16_FROM = (8, 0)  # Ampere; before, bfloat16 is emulated, and vLLM refuses it
_ANSWERS_WITHIN_S = 300.0
_OCCUPIED_BELOW = 0.9  # of the memory that the emptiest GPU of the same name has free
_GIB = 1 << 30
_HINT = "; device=cpu computes on the CPU"
# Runs in a process of its own: a worker that has asked CUDA keeps half a GiB of the first GPU.
_QUESTION = """
import json, torch
def error_of(ask):
    try:
        return ask() and None
    except Exception as error:
        return (str(error).strip().splitlines() or [type(error).__name__])[0]
def free_bytes(gpu):
    try:
        return torch.cuda.mem_get_info(gpu)[0]
    except Exception:
        return None
is_there = torch.cuda.is_available()
gpus = range(torch.cuda.device_count() if is_there else 0)
print("\\n" + json.dumps({
    "version": torch.__version__,
    "platform": torch.version.cuda or torch.version.hip,
    "error": None if is_there else error_of(torch.cuda.init),
    "names": [torch.cuda.get_device_name(gpu) for gpu in gpus],
    "capabilities": [torch.cuda.get_device_capability(gpu) for gpu in gpus],
    "faults": [error_of(lambda: torch.zeros(1, device=f"cuda:{gpu}")) for gpu in gpus],
    "free_bytes": [free_bytes(gpu) for gpu in gpus],
}))
"""


@dataclass(frozen=True, kw_only=True)
class SeenGpus:
    """Holds what torch says of a machine's GPUs.

    Args:
        version: of torch.
        platform: the version of CUDA or ROCm that torch was built for; None: it is a build for CPUs.
        error: why CUDA cannot be used; None: it can.
        names, capabilities: of each GPU.
        faults: why a GPU cannot be used though CUDA can; None: it can.
        free_bytes: memory of each GPU that nobody uses; None: unknown.
    """

    version: str
    platform: str | None
    error: str | None
    names: tuple[str, ...]
    capabilities: tuple[tuple[int, int], ...]
    faults: tuple[str | None, ...]
    free_bytes: tuple[int | None, ...]

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "SeenGpus":
        """Read what the question's process has printed."""
        return cls(
            version=data["version"],
            platform=data["platform"],
            error=data["error"],
            names=tuple(data["names"]),
            capabilities=tuple((int(major), int(minor)) for major, minor in data["capabilities"]),
            faults=tuple(data["faults"]),
            free_bytes=tuple(data["free_bytes"]),
        )

    def lacking(self, counted: int) -> str | None:
        """Say in words why torch cannot use as many GPUs as Ray counts; None: it can."""
        torch = f"its torch {self.version}"
        if self.platform is None:
            return f"{torch} is a build for CPUs; install the build for the node's GPUs"
        if not self.names:
            return f"{torch} for CUDA {self.platform} finds none: {_in_words(self.error)}"
        if len(self.names) < counted:
            return f"{torch} sees {len(self.names)}"
        return None


def _in_words(error: str | None) -> str:
    """Say why CUDA cannot be used, with torch's own words for what is not known here."""
    if error is None:
        return "no reason given"
    if "driver" in error and "too old" in error:
        return f"the node's NVIDIA driver is too old for it ({error})"
    if "no NVIDIA driver" in error:
        return "the node has no NVIDIA driver"
    return error


def ask_torch() -> dict[str, Any]:
    """Ask torch in a new Python process what it sees; returns the fields of `SeenGpus` as JSON.

    Raises:
        RuntimeError: torch cannot be imported there, or does not answer.
    """
    environment = dict(os.environ)
    if not environment.get("CUDA_VISIBLE_DEVICES"):  # empty: Ray hides all GPUs from who books none
        environment.pop("CUDA_VISIBLE_DEVICES", None)
    try:
        asked = subprocess.run(
            [sys.executable, "-c", _QUESTION],
            env=environment,
            capture_output=True,
            text=True,
            timeout=_ANSWERS_WITHIN_S,
        )
    except subprocess.TimeoutExpired:
        raise RuntimeError(f"torch does not answer within {_ANSWERS_WITHIN_S:g} s") from None
    if asked.returncode:
        last = (asked.stderr.strip().splitlines() or [f"exit status {asked.returncode}"])[-1]
        raise RuntimeError(f"torch cannot be asked: {last}")
    answer: dict[str, Any] = json.loads(asked.stdout.strip().splitlines()[-1])
    return answer


def ask_nodes(nodes: Mapping[str, tuple[str, int]]) -> dict[str, SeenGpus]:
    """Ask torch on each node of the cluster that has GPUs, all at once.

    Args:
        nodes: by Ray's id of the node: its name for people, and how many GPUs Ray counts there.

    Raises:
        ConfigError: torch cannot be asked on some node.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    def asked() -> Any:  # pickled by value; imports our packages in the worker
        from pipeline.run.cluster import gpus

        return gpus.ask_torch()

    remote = ray.remote(num_cpus=0, max_retries=0)(asked)
    answers = {
        node: remote.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)).remote()
        for node in nodes
    }
    seen = {}
    for node, answer in answers.items():
        try:
            seen[node] = SeenGpus.from_json(ray.get(answer))
        except ray.exceptions.RayError as error:
            reason = str(error).strip().splitlines()[-1].removeprefix("RuntimeError: ")
            raise ConfigError(f"node {nodes[node][0]} has {nodes[node][1]} GPUs, but {reason}") from None
    return seen


def require_usable(name: str, counted: int, seen: SeenGpus, dtypes: Mapping[str, str]) -> None:
    """Refuse a node whose torch cannot use its GPUs, or whose GPUs cannot compute in the model's precision.

    Args:
        name: the node's, for people.
        counted: the GPUs that Ray counts there.
        dtypes: by the key of the configuration, of the stages that use GPUs.

    Raises:
        ConfigError: with the node and the cause, in one line.
    """
    if (reason := seen.lacking(counted)) is not None:
        raise ConfigError(f"node {name}: Ray counts {counted} GPUs, but {reason}{_HINT}")
    for gpu, fault in enumerate(seen.faults):
        if fault is not None:
            raise ConfigError(
                f"node {name}: its GPU {gpu}, {seen.names[gpu]}, cannot be used: {fault}; leave it out by "
                "CUDA_VISIBLE_DEVICES where Ray is started"
            )
    in_bfloat16 = [key for key, dtype in dtypes.items() if dtype == "bfloat16"]
    for gpu, capability in enumerate(seen.capabilities):
        if in_bfloat16 and capability < BFLOAT16_FROM:
            raise ConfigError(
                f"node {name}: its GPU {gpu}, {seen.names[gpu]}, has compute capability "
                f"{capability[0]}.{capability[1]}, and bfloat16 needs {BFLOAT16_FROM[0]}.{BFLOAT16_FROM[1]}: "
                f"use {' '.join(f'{key}=float16' for key in in_bfloat16)}"
            )


def require_gpus(cluster: Cluster, device: str, dtypes: Mapping[str, str]) -> None:
    """Check that torch can use every GPU of the cluster's nodes, if a stage uses GPUs.

    Args:
        dtypes: in which the stages compute, by the stages' names.

    Raises:
        ConfigError: as `require_usable` says it.
    """
    on_gpu = {
        f"model.{stage}_dtype": dtypes.get(stage, "")
        for stage in ("encode", "generate")
        if cluster.device_of(stage, device) != "cpu"
    }
    if not on_gpu:
        return
    nodes = _nodes_with_gpus()
    answers = _asked(nodes)
    for node, seen in answers.items():
        require_usable(*dict(nodes)[node], seen, on_gpu)
    if text := occupied([(dict(nodes)[node][0], seen) for node, seen in answers.items()]):
        log.tell("occupied_gpus", text)


def occupied(nodes: Sequence[tuple[str, SeenGpus]]) -> str | None:
    """Name the GPUs of which somebody else has taken memory: others of their name have more; None: none.

    Args:
        nodes: their names, and what torch sees there.
    """
    gpus = [
        (f"GPU {gpu} of node {node}", name, free)
        for node, seen in nodes
        for gpu, (name, free) in enumerate(zip(seen.names, seen.free_bytes, strict=True))
        if free is not None
    ]
    most: dict[str, int] = {}
    for _, name, free in gpus:
        most[name] = max(free, most.get(name, 0))
    told = [
        f"{gpu}, {name}, has {free / _GIB:.1f} of {most[name] / _GIB:.1f} GiB"
        for gpu, name, free in gpus
        if free < _OCCUPIED_BELOW * most[name]
    ]
    return f"memory is taken already: {'; '.join(told)} that others of its kind have free" if told else None


def devices_of_answers(cluster: Cluster, device: str) -> set[str]:
    """Name the devices on which generate may compute here, as `models.devices.device_name` does."""
    if cluster.on(hardware(), device).device_of("generate", device) == "cpu":
        return {"CPU"}
    return {name for seen in _asked(_nodes_with_gpus()).values() for name in seen.names}


Nodes = tuple[tuple[str, tuple[str, int]], ...]  # as `ask_nodes` takes them


def _nodes_with_gpus() -> Nodes:
    nodes = [
        (node["NodeID"], (node["NodeManagerHostname"], int(node["Resources"].get("GPU", 0))))
        for node in alive_nodes()
    ]
    return tuple(sorted(node for node in nodes if node[1][1]))


@cache
def _asked(nodes: Nodes) -> dict[str, SeenGpus]:
    """Ask the nodes once, though a comparison starts several runs; Ray's ids of nodes are unique."""
    return ask_nodes(dict(nodes))
