"""Show where actors come to lie on made-up GPUs: `python -m tests.support.made_up_gpus NODES GPUS [run]`.

Ray gives out GPUs that it is told of, whether there are any. Prints one line of JSON: how many GPUs have how
many language models and CLIPs. By default places are reserved, and a task in each tells its GPU; with `run`
a whole run has stubs in the place of both models, and each actor tells its GPU.
"""

import json
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_UNITS = 20  # of the whole run
_QUIET = {
    "RAY_AUTH_MODE": "disabled",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_BACKEND_LOG_LEVEL": "fatal",
    "RAY_enable_worker_prestart": "0",
    "RAY_prestart_worker_first_driver": "0",
}


@contextmanager
def made_up_cluster(nodes: int, gpus: int) -> Iterator[None]:
    """Start a Ray cluster on this machine whose nodes say that they have GPUs, and connect to it."""
    os.environ.update(_QUIET)
    import ray
    from ray.cluster_utils import Cluster

    of_node = {
        "num_cpus": 1 + 0.75 * gpus,
        "num_gpus": gpus,
        "object_store_memory": 80 << 20,
        "include_dashboard": False,
    }
    with tempfile.TemporaryDirectory(prefix="r-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        cluster = Cluster(initialize_head=True, head_node_args={**of_node, "temp_dir": folder})
        try:
            for _ in range(nodes - 1):
                cluster.add_node(wait=False, **of_node)
            cluster.wait_for_nodes(timeout=600)
            ray.init(address=cluster.address, logging_level="ERROR", log_to_driver=False)
            yield
        finally:
            ray.shutdown()
            cluster.shutdown()


def places_on_gpus() -> dict[str, list[tuple[str, int]]]:
    """Reserve the places of a run with default settings; returns node and GPU of each, by stage."""
    import ray
    from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

    from pipeline.run.cluster.nodes import hardware
    from pipeline.run.cluster.placement import reserved_places
    from pipeline.run.cluster.resources import Cluster

    @ray.remote
    def where() -> tuple[str, int]:
        return ray.get_runtime_context().get_node_id(), int(ray.get_gpu_ids()[0])

    config = Cluster(address="auto")
    room = config.room_on(hardware(), "auto")
    filled = config.on(hardware(), "auto")
    num_cpus = {stage: filled.actors(stage).num_cpus for stage in ("encode", "generate")}
    found: dict[str, list[tuple[str, int]]] = {}
    with reserved_places(room, num_cpus, 300.0) as options:
        for stage, option in options.items():
            group, places = option["scheduling_strategy"].placement_group, room.of(stage)
            assert places is not None
            found[stage] = ray.get(
                [
                    where.options(
                        num_cpus=num_cpus[stage],
                        num_gpus=places.share,
                        scheduling_strategy=PlacementGroupSchedulingStrategy(
                            group, placement_group_bundle_index=number
                        ),
                    ).remote()
                    for number in range(places.count)
                ]
            )
    return found


def actors_on_gpus(folder: Path, gpus: int) -> dict[str, list[tuple[str, int]]]:
    """Run a whole job with stubs for both models; returns node and GPU of each actor, by stage."""
    import pyarrow as pa

    from pipeline.benchmark.driver_memory import StubEncode, StubGenerate
    from pipeline.run.flow import run_flow
    from pipeline.run.prepare import prepare
    from tests.support.commands import compose

    def telling(kind: type, stage: str, most: int) -> type:
        class Telling(kind):  # type: ignore[misc]
            def __init__(self, **arguments: Any) -> None:
                import ray

                super().__init__(**arguments)
                assert arguments["device"] == "cuda"
                (gpu,) = ray.get_gpu_ids()
                place = {"gpu": int(gpu), "visible": os.environ["CUDA_VISIBLE_DEVICES"]}
                place["node"] = ray.get_runtime_context().get_node_id()
                (folder / f"{stage}-{os.getpid()}").write_text(json.dumps(place))

            def __call__(self, batch: pa.Table) -> pa.Table:
                until = time.monotonic() + 120  # until all actors of the stage are there
                while len(list(folder.glob(f"{stage}-*"))) < most and time.monotonic() < until:
                    time.sleep(0.1)
                return super().__call__(batch)

        return Telling

    units = ("source.path=demo:pictures", f"limit={_UNITS}", "unit_samples=1")
    config = compose(*units, f"output={folder}/out", "cluster=ray")
    classes = {
        "encode": telling(StubEncode, "encode", -(-gpus // 4)),
        "generate": telling(StubGenerate, "generate", gpus),
    }
    written = sum(1 for _ in run_flow(config, prepare(config), "1", **classes))
    assert written == _UNITS, written
    found: dict[str, list[tuple[str, int]]] = {"encode": [], "generate": []}
    for file in folder.glob("*-*"):
        place = json.loads(file.read_text())
        assert place["visible"] == str(place["gpu"])
        found[file.name.partition("-")[0]].append((place["node"], place["gpu"]))
    return found


def table_of(found: dict[str, list[tuple[str, int]]], nodes: int, gpus: int) -> dict[str, object]:
    """Count the GPUs by how many actors of each stage they have, and the nodes by their CLIPs."""
    a_gpu = {stage: Counter(Counter(places).values()) for stage, places in found.items()}
    clips = Counter(node for node, _ in found["encode"])
    return {
        "gpus": nodes * gpus,
        "gpus_by_language_models": dict(a_gpu["generate"]),
        "gpus_by_clips": dict(a_gpu["encode"]),
        "nodes_by_clips": dict(Counter(clips.values())),
        "idle": nodes * gpus - len({*found["generate"], *found["encode"]}),
    }


if __name__ == "__main__":
    _nodes, _gpus = int(sys.argv[1]), int(sys.argv[2])
    with tempfile.TemporaryDirectory() as _folder, made_up_cluster(_nodes, _gpus):
        _is_run = sys.argv[3:] == ["run"]
        _found = actors_on_gpus(Path(_folder), _nodes * _gpus) if _is_run else places_on_gpus()
        print(json.dumps(table_of(_found, _nodes, _gpus)))
