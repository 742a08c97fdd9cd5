"""Show where actors come to lie on made-up GPUs: `python -m tests.support.made_up_gpus NODES GPUS [HOW]`.

Ray gives out GPUs that it is told of, whether there are any. Prints one line of JSON: how many GPUs have how
many language models and CLIPs. By default places are reserved, and a task in each tells its GPU. HOW is `run`
for a whole run with stubs in the place of both models, where each actor tells its GPU, `sick` for one where
GPU 1 kills each language model at its first unit, or `nodes` for places by nodes alone: for many nodes, since
it needs no worker.
"""

import json
import math
import os
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ray.util.placement_group import PlacementGroup

    from pipeline.run.cluster.gpu_room import GpuRoom
    from pipeline.run.guard.incidents import Incident

_UNITS = 20  # of the whole run
_AT_ONCE = 8  # nodes started
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
        "num_cpus": 1 + math.ceil(0.75 * gpus),  # Ray refuses parts above 1
        "num_gpus": gpus,
        "object_store_memory": 80 << 20,
        "include_dashboard": False,
    }
    with tempfile.TemporaryDirectory(prefix="r-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        cluster = Cluster(initialize_head=True, head_node_args={**of_node, "temp_dir": folder})
        try:
            for number in range(1, nodes):
                cluster.add_node(wait=number % _AT_ONCE == 0, **of_node)
            cluster.wait_for_nodes(timeout=600)
            ray.init(address=cluster.address, logging_level="ERROR", log_to_driver=False)
            yield
        finally:
            ray.shutdown()
            cluster.shutdown()


@contextmanager
def reserved(
    most: int | None = None,
) -> Iterator[tuple["GpuRoom", dict[str, float], dict[str, "PlacementGroup"]]]:
    """Reserve the places of a run; yields what each stage books, and where.

    `most` is generate's `max_actors`; all else has its default.
    """
    from pipeline.run.cluster.booked import ActorResources
    from pipeline.run.cluster.nodes import hardware
    from pipeline.run.cluster.placement import reserved_places
    from pipeline.run.cluster.resources import Cluster

    config = Cluster(address="auto", generate=ActorResources(num_cpus=0.6, max_actors=most))
    room, filled = config.room_on(hardware(), "auto"), config.on(hardware(), "auto")
    num_cpus = {stage: filled.actors(stage).num_cpus for stage in ("encode", "generate")}
    with reserved_places(room, num_cpus, 300.0) as options:
        strategies = {stage: option["scheduling_strategy"] for stage, option in options.items()}
        yield room, num_cpus, {stage: how.placement_group for stage, how in strategies.items()}


def places_on_nodes() -> dict[str, dict[int, int]]:
    """Count the nodes by how many places of each stage they have."""
    from ray.util import placement_group_table

    with reserved() as (_, _, groups):
        nodes = {
            stage: placement_group_table(group)["bundles_to_node_id"].values()
            for stage, group in groups.items()
        }
    return {f"nodes_by_places_of_{stage}": _counted(of_stage) for stage, of_stage in nodes.items()}


def places_on_gpus(most: int | None = None) -> dict[str, list[tuple[str, int]]]:
    """Let a task in each place tell its node and GPU, by stage; `most` as in `reserved`."""
    import ray
    from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

    @ray.remote
    def where() -> tuple[str, int]:
        return ray.get_runtime_context().get_node_id(), int(ray.get_gpu_ids()[0])

    found: dict[str, list[tuple[str, int]]] = {}
    with reserved(most) as (room, num_cpus, groups):
        for stage, group in groups.items():
            places = room.of(stage)
            assert places is not None
            booked = {"num_cpus": num_cpus[stage], "num_gpus": places.share}
            bundles = [PlacementGroupSchedulingStrategy(group, number) for number in range(places.count)]
            found[stage] = ray.get(
                [where.options(**booked, scheduling_strategy=bundle).remote() for bundle in bundles]
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


def run_beside_a_sick_gpu(folder: Path) -> dict[str, object]:
    """Run a whole job whose language models die on GPU 1; returns its rows by status, and what was told."""
    import pyarrow as pa

    from pipeline.benchmark.driver_memory import StubEncode, StubGenerate
    from pipeline.run.flow import run_flow
    from pipeline.run.prepare import prepare
    from tests.support.commands import compose

    class Answering(StubGenerate):
        def __call__(self, batch: pa.Table) -> pa.Table:
            if os.environ["CUDA_VISIBLE_DEVICES"] == "1":
                (folder / f"died-{os.getpid()}").touch()
                os.kill(os.getpid(), signal.SIGKILL)
            until = time.monotonic() + 60  # the sick GPU has had a unit before the sound one answers all
            while not list(folder.glob("died-*")) and time.monotonic() < until:
                time.sleep(0.1)
            return super().__call__(batch)

    units = ("source.path=demo:pictures", f"limit={_UNITS}", "unit_samples=1")
    config = compose(*units, f"output={folder}/out", "cluster=ray")
    incidents: list[Incident] = []
    stats = list(
        run_flow(config, prepare(config), "1", encode=StubEncode, generate=Answering, incidents=incidents)
    )
    rows = sum((Counter(totals.status) for one in stats for totals in one.totals), Counter[str]())
    return {
        "units": len(stats),
        "rows": dict(rows),
        "lines": [incident.line for incident in incidents],
        "deaths": len(list(folder.glob("died-*"))),
    }


def _counted(places: Iterable[object]) -> dict[int, int]:
    """Count the places by how often they come."""
    return dict(Counter(Counter(places).values()))


def table_of(found: dict[str, list[tuple[str, int]]], gpus: int) -> dict[str, object]:
    """Count the GPUs by how many actors of each stage they have, and the nodes by their CLIPs."""
    return {
        "gpus": gpus,
        "gpus_by_language_models": _counted(found["generate"]),
        "gpus_by_clips": _counted(found["encode"]),
        "nodes_by_clips": _counted(node for node, _ in found["encode"]),
        "idle": gpus - len({*found["generate"], *found["encode"]}),
    }


def _main(nodes: int, gpus: int, how: str) -> dict[str, object]:
    with tempfile.TemporaryDirectory() as folder, made_up_cluster(nodes, gpus):
        if how == "nodes":
            return {"gpus": nodes * gpus, **places_on_nodes()}
        if how == "sick":
            return {"gpus": nodes * gpus, **run_beside_a_sick_gpu(Path(folder))}
        if how == "run":
            return table_of(actors_on_gpus(Path(folder), nodes * gpus), nodes * gpus)
        growing = places_on_gpus(most=nodes * gpus)
        assert "generate" not in growing
        table = table_of(places_on_gpus(), nodes * gpus)
        return table | {"gpus_by_clips_if_models_may_grow": _counted(growing["encode"])}


if __name__ == "__main__":
    print(json.dumps(_main(int(sys.argv[1]), int(sys.argv[2]), (sys.argv[3:] or [""])[0])))
