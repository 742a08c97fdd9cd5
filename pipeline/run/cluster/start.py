"""The Ray cluster that the stages run in: started or joined, closed to others, with our own packages."""

import hashlib
import logging
import os
import secrets
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from pipeline.run.cluster.resources import Cluster, Hardware
from pipeline.run.cluster.ship import NAMES, ROOT, packages
from pipeline.support.errors import RunError

_EXPORT = "RAY_enable_export_api_write"


def start_ray(cluster: Cluster, device: str, metrics_port: int | None = None) -> None:
    """Start or join the cluster, unless this process has done so.

    Its workers find this installation's packages before anything else. A cluster that is started serves its
    metrics at `metrics_port`; one that is joined has its own.

    Raises:
        ConfigError: what the stages book does not fit the cluster.
        RunError: the cluster cannot be reached, or a node's workers import another `pipeline`, or none.
    """
    _close_to_others(cluster)
    import ray

    if ray.is_initialized():
        return
    # Two actors whose threads spin at OpenMP's barriers on the same cores slow each other down tenfold.
    variables = {"OMP_WAIT_POLICY": os.environ.get("OMP_WAIT_POLICY", "PASSIVE")}
    environment = {**(cluster.runtime_env or {}), "worker_process_setup_hook": _own_packages_first()}
    environment["env_vars"] = variables | environment.get("env_vars", {})
    options: dict[str, Any] = {"runtime_env": environment, "log_to_driver": False}
    if cluster.address == "local":
        options |= {
            "num_cpus": cluster.local_cpus,
            "num_gpus": cluster.num_gpus,
            "object_store_memory": cluster.object_store_bytes,
            "include_dashboard": False,
            "_node_ip_address": "127.0.0.1",
            "_metrics_export_port": metrics_port,
        }
        # Ray's own second is over between two units: then a hundred units start dozens of processes.
        os.environ.setdefault("RAY_idle_worker_killing_time_threshold_ms", "60000")
    # The driver's core worker logs to stderr; what matters comes back as an exception.
    quiet = os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal") == "fatal"
    on_sigterm = signal.getsignal(signal.SIGTERM)
    try:
        with (
            _without_stderr() if quiet else nullcontext(),
            packages() if cluster.ship else nullcontext() as ours,
        ):
            if ours:
                environment["working_dir"] = ours
            ray.init(address=cluster.address, logging_level=logging.ERROR, **options)
    except ConnectionError as error:
        raise RunError(f"cluster.address={cluster.address}: {error}") from None
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, on_sigterm)  # Ray's own ends with status 15 and no word
    cluster.on(hardware(), device)
    _require_own_packages()


def hardware() -> Hardware:
    """What the cluster that this process has joined consists of."""
    there = alive_nodes()
    cpus = tuple(float(node["Resources"]["CPU"]) for node in there)
    return Hardware(cpus, float(sum(node["Resources"].get("GPU", 0) for node in there)))


def alive_nodes() -> list[dict[str, Any]]:
    """The nodes that can run a stage, as Ray tells them."""
    import ray

    return [node for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU")]


def _close_to_others(cluster: Cluster) -> None:
    """Before Ray is imported: no export of the stages' arguments, and a token for a cluster started here.

    The arguments hold the storage's settings. Without a token whoever reaches the cluster's ports runs what
    he likes in it: other users of this machine, too. Who has set RAY_AUTH_MODE himself keeps what he set.
    """
    os.environ.pop(_EXPORT, None)
    exported = os.environ.get(f"{_EXPORT}_config", "").split(",")
    kept = [name for name in exported if name and not name.startswith("EXPORT_DATASET")]
    if kept != exported:
        os.environ[f"{_EXPORT}_config"] = ",".join(kept)
    if cluster.address != "local" or "RAY_AUTH_MODE" in os.environ:
        return
    if not {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & os.environ.keys():
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
    if "ray" not in sys.modules:  # else it has read the mode; from 2.60 on it turns to tokens by itself
        os.environ["RAY_AUTH_MODE"] = "token"


@contextmanager
def _without_stderr() -> Iterator[None]:
    """Keep what C++ code writes to stderr off the terminal, unless what is inside raises."""
    with tempfile.TemporaryFile() as kept:
        stderr = os.dup(2)
        os.dup2(kept.fileno(), 2)
        try:
            yield
        except BaseException:
            kept.seek(0)
            os.write(stderr, kept.read())
            raise
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)


def _own_packages_first() -> Callable[[], None]:
    """What a worker runs when it starts, so that it imports this installation's packages.

    Ray puts the driver's working directory before everything else on a worker's path, after this hook:
    a user's own folder called `pipeline` would be taken for ours. The hook is a closure because those
    travel by value, not as the name of a module that is still to be found. Where this installation is not
    on a worker's node, the packages are in the folder that Ray was told to send, or installed there.
    """
    root, names = str(ROOT), NAMES

    def hook() -> None:
        import os
        import sys
        from importlib.machinery import PathFinder

        sent = [path for path in (os.getcwd(), *sys.path) if "working_dir_files" in path][:1]  # noqa: PTH109
        places = [root, *sent] if os.path.isdir(os.path.join(root, "pipeline")) else sent  # noqa: PTH112, PTH118

        # without names of this module, which the hook cannot bring along
        def find_spec(name, path=None, target=None):
            return PathFinder.find_spec(name, places) if path is None and name in names else None

        finder = type("OwnPackages", (), {"find_spec": staticmethod(find_spec)})
        sys.meta_path.insert(0, finder)  # type: ignore[arg-type]

    return hook


def _require_own_packages() -> None:
    """Check in a worker of each node that the hook did its work."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    expected = _package_digest()

    def found() -> str:
        from pipeline.run.cluster import start as cluster

        return str(cluster._package_digest())

    nodes = {node["NodeID"]: node["NodeManagerHostname"] for node in alive_nodes()}
    digest_there = ray.remote(num_cpus=0)(found)
    at = {
        name: digest_there.options(
            scheduling_strategy=NodeAffinitySchedulingStrategy(name, soft=False)
        ).remote()
        for name in nodes
    }
    for name, digest in at.items():
        try:
            same = ray.get(digest) == expected
        except ray.exceptions.RayError as error:
            told = str(error).strip().splitlines()[-1]
            raise RunError(f"no worker can be used on the node {nodes[name]}: {told}{_SHIP}") from None
        if not same:
            raise RunError(
                f"the workers of the node {nodes[name]} import another version of `pipeline` than this "
                f"process{_SHIP}"
            )


_SHIP = "; cluster.ship=true sends it the packages of this one"


def _package_digest() -> str:
    """A hash of this package's sources."""
    sources = sorted(Path(__file__).resolve().parents[2].rglob("*.py"))
    return hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()
