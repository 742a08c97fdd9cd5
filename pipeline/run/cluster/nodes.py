"""Lists the nodes of the cluster that this process has joined, and what they have."""

from typing import TypedDict

from pipeline.run.cluster.booked import Hardware


def hardware() -> Hardware:
    """Count the CPUs, GPUs and memory of the cluster that this process has joined."""
    nodes = alive_nodes()
    cpus = tuple(float(node["Resources"]["CPU"]) for node in nodes)
    gpus = tuple(float(node["Resources"].get("GPU", 0)) for node in nodes)
    return Hardware(cpus, gpus, int(max((node["Resources"].get("memory", 0) for node in nodes), default=0)))


class Node(TypedDict):
    """Declares the keys of Ray's node descriptions that Trimline reads."""

    NodeID: str
    NodeManagerHostname: str
    NodeManagerAddress: str
    Alive: bool
    MetricsExportPort: int
    Resources: dict[str, float]


def alive_nodes() -> list[Node]:
    """List the nodes that can run a stage, as Ray describes them."""
    import ray

    nodes: list[Node] = ray.nodes()  # type: ignore[no-untyped-call]
    return [node for node in nodes if node["Alive"] and node["Resources"].get("CPU")]
