"""Starts or joins the Ray cluster, secures it, and makes its workers import this installation."""

import hashlib
import logging
import os
import secrets
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pipeline.run.cluster.gpus import require_gpus
from pipeline.run.cluster.metrics_page import serve_metrics
from pipeline.run.cluster.nodes import alive_nodes, hardware
from pipeline.run.cluster.private import PrivateFolder
from pipeline.run.cluster.reach import wait_for_cluster
from pipeline.run.cluster.resources import LOOPBACK, Cluster
from pipeline.run.cluster.ship import ROOT, packages
from pipeline.run.cluster.worker_environment import worker_environment
from pipeline.support import log
from pipeline.support.errors import RunError
from pipeline.support.signals import keeping_sigterm_handler

_EXPORT = "RAY_enable_export_api_write"
# 0: Ray takes the loopback address at its word, where it would put the machine's own in its place
_CLUSTERS = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"


def start_ray(
    cluster: Cluster,
    device: str,
    metrics_port: int | None = None,
    metrics_host: str = LOOPBACK,
    *,
    dtypes: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Start or join the cluster, unless this process has done so already.

    The workers look for our packages in this installation first.

    Args:
        metrics_port: where a cluster started here serves its metrics; a joined one has a port of its own.
        metrics_host: the address of that port.
        dtypes: in which the stages compute, by the stages' names.

    Raises:
        ConfigError: what the stages book does not fit the cluster, or torch cannot use the GPUs of a node.
        RunError: the cluster cannot be reached, or a node's workers import another `pipeline`, or none.
    """
    _secure(cluster)
    import ray

    if ray.is_initialized():
        require_gpus(cluster, device, dtypes)
        return
    if cluster.address != "local":
        wait_for_cluster(cluster.address, cluster.connect_s)
    options: dict[str, Any] = {  # keyword arguments of ray.init
        "runtime_env": worker_environment(cluster.runtime_env or {}),
        "log_to_driver": False,
    }
    folder = PrivateFolder(cluster.logs) if cluster.address == "local" else None
    if folder is not None:
        options |= {
            "num_cpus": cluster.local_cpus,
            "num_gpus": _local_gpus(cluster, device),
            "object_store_memory": cluster.object_store_bytes,
            "include_dashboard": False,
            "_node_ip_address": LOOPBACK,
            "_temp_dir": folder.path,
            "_metrics_export_port": metrics_port if metrics_host == LOOPBACK else None,
        }
        # Ray's default is a second, less than the time between two units: dozens of processes would start.
        os.environ.setdefault("RAY_idle_worker_killing_time_threshold_ms", "60000")
    try:
        _connect(cluster, options)
        if folder is not None:
            _require_loopback()
            if metrics_port is not None and metrics_host != LOOPBACK:
                serve_metrics(metrics_host, metrics_port, alive_nodes()[0]["MetricsExportPort"])
        _require_our_packages()
        require_gpus(cluster, device, dtypes)
        cluster.on(hardware(), device)
        _session[:] = [folder]
    except BaseException:
        if folder is not None:
            folder.remove()
        raise


_session: list[PrivateFolder | None] = []  # of the Ray that this process has started (None: has joined)
_keepers: list[object] = []


def let_ray_go() -> None:
    """End the cluster that `start_ray` started, or leave the one that it joined; waits for its processes.

    Does nothing within `keeping_ray`, and if Ray was started by others or not at all.
    """
    if _keepers or not _session:
        return
    import ray

    folder = _session.pop()
    if folder is not None:
        folder.remove()
    elif ray.is_initialized():
        ray.shutdown()


@contextmanager
def keeping_ray() -> Iterator[None]:
    """Keep Ray within this context for further runs of this process; its end does not let it go, either."""
    _keepers.append(None)
    try:
        yield
    finally:
        _keepers.pop()


def _connect(cluster: Cluster, options: dict[str, Any]) -> None:  # keyword arguments of ray.init
    """Start or join the cluster; RunError if it does not answer."""
    import ray

    # The driver's C++ code logs to stderr, but everything that matters is raised as an exception.
    quiet = os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal") == "fatal"
    try:
        with (
            keeping_sigterm_handler(),
            _without_stderr() if quiet else nullcontext(),
            packages() if cluster.ship else nullcontext() as working_dir,
        ):
            if working_dir:
                options["runtime_env"]["working_dir"] = working_dir
            ray.init(address=cluster.address, logging_level=logging.ERROR, **options)
    except ConnectionError as error:
        raise RunError(f"cluster.address={cluster.address}: {error}") from None


def _require_loopback() -> None:
    """End a cluster of this process that other machines could reach."""
    addresses = {node["NodeManagerAddress"] for node in alive_nodes()}
    if addresses != {LOOPBACK}:
        raise RunError(
            f"cluster=local: Ray listens on {', '.join(addresses)} instead of {LOOPBACK}; set "
            f"{_CLUSTERS}=0 in the environment"
        )


def _local_gpus(cluster: Cluster, device: str) -> int | None:
    """Return the GPUs of a cluster on this machine; None: Ray counts them."""
    import torch

    is_open = cluster.num_gpus is None and device == "auto"
    if not is_open or torch.version.cuda or torch.version.hip:
        return cluster.num_gpus
    if gpus := len(list(Path("/dev").glob("nvidia[0-9]*"))):
        log.tell(
            "device",
            f"device=auto is the CPU: this machine has {gpus} GPUs, but torch {torch.__version__} is a build "
            "for CPUs; README.md, Install, says how to get one for GPUs",
        )
    return 0


def _secure(cluster: Cluster) -> None:
    """Close a cluster started here to others, and keep Ray from exporting the stages' arguments.

    This must happen before Ray is imported. The arguments hold the storage's credentials. The cluster listens
    on the loopback address alone. Without a token, everyone who reaches its ports, other users of this
    machine included, can run code in it. A RAY_AUTH_MODE that is already set is kept.
    """
    # else a thread that outlives an interrupted run would join any other cluster that it finds
    os.environ.setdefault("RAY_ENABLE_AUTO_CONNECT", "0")
    os.environ.pop(_EXPORT, None)
    exported = os.environ.get(f"{_EXPORT}_config", "").split(",")
    kept = [name for name in exported if name and not name.startswith("EXPORT_DATASET")]
    if kept != exported:
        os.environ[f"{_EXPORT}_config"] = ",".join(kept)
    _use_loopback(cluster.address == "local")
    if cluster.address != "local":
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if "RAY_AUTH_MODE" in os.environ:
        return
    if not {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & os.environ.keys():
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
    if "ray" not in sys.modules:  # else Ray has read the mode already; from 2.60 on its default is tokens
        os.environ["RAY_AUTH_MODE"] = "token"


def _use_loopback(is_alone: bool) -> None:
    """Let a node of Ray in this process listen on the loopback address alone, or be reached by others."""
    if is_alone:
        os.environ[_CLUSTERS] = "0"
    else:
        os.environ.pop(_CLUSTERS, None)
    if "ray" in sys.modules:  # which has read the variable already
        from ray._private import ray_constants

        ray_constants.ENABLE_RAY_CLUSTER = not (is_alone or ray_constants.IS_WINDOWS_OR_OSX)


@contextmanager
def _without_stderr() -> Iterator[None]:
    """Hide what C++ code writes to stderr; show it if the block raises, but for Ctrl-C."""
    with tempfile.TemporaryFile() as kept:
        stderr = os.dup(2)
        os.dup2(kept.fileno(), 2)
        try:
            yield
        except Exception:
            kept.seek(0)
            os.write(stderr, kept.read())
            raise
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)


def _require_our_packages() -> None:
    """Check that a worker on each node imports the same sources as this process."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    expected = _package_digest()

    def digest_of_worker() -> str:
        from pipeline.run.cluster import start

        return str(start._package_digest())

    nodes = {node["NodeID"]: node["NodeManagerHostname"] for node in alive_nodes()}
    remote_digest = ray.remote(num_cpus=0)(digest_of_worker)
    digests = {
        name: remote_digest.options(
            scheduling_strategy=NodeAffinitySchedulingStrategy(name, soft=False)
        ).remote()
        for name in nodes
    }
    for name, digest in digests.items():
        try:
            same = ray.get(digest) == expected
        except ray.exceptions.RayError as error:
            reason = str(error).strip().splitlines()[-1]
            raise RunError(f"no worker can be used on the node {nodes[name]}: {reason}{_SHIP}") from None
        if not same:
            raise RunError(
                f"the workers of the node {nodes[name]} import another version of `pipeline` than this "
                f"process{_SHIP}"
            )


_SHIP = "; cluster.ship=true sends it the packages of this one"


def _package_digest() -> str:
    """Hash the sources of `pipeline`."""
    sources = sorted((ROOT / "pipeline").rglob("*.py"))
    return hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()
