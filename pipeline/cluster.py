"""Where the stages run, and with which resources."""

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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.config import free, require
from pipeline.errors import ConfigError, RunError

_EXPORT = "RAY_enable_export_api_write"


@dataclass(frozen=True, kw_only=True)
class Resources:
    """What one task or actor of a stage books, and how many actors there are.

    `num_gpus` null: none without a GPU in the cluster, else the stage's share of one. `threads` null:
    torch may use all cores of the node, whatever is booked.
    """

    num_cpus: float = free(0.25)
    num_gpus: float | None = free(None)
    num_actors: int = free(1)
    threads: int | None = free(None)

    def __post_init__(self) -> None:
        require(self.num_cpus > 0, "cluster: num_cpus of a stage must be positive, or Ray starves it")
        require(self.num_actors >= 1, "cluster: num_actors must be at least 1")
        require(self.threads is None or self.threads >= 1, "cluster: threads must be at least 1")


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """The Ray cluster: `address` is `local` for one started here, `auto` or host:port for one that runs.

    Stages differ in what they book, since Ray fuses neighbours that book alike.
    """

    address: str = free("local")
    num_cpus: int | None = free(None)  # of a local cluster; null: the cores of this machine, at least 2
    num_gpus: int | None = free(None)
    object_store_bytes: int | None = free(None)
    stall_s: float = free(1800.0)  # a run ends, and says where, if nothing has moved for so long
    read: Resources = free(default_factory=lambda: Resources(num_cpus=0.2))
    decode: Resources = free(default_factory=lambda: Resources(num_cpus=0.3))
    encode: Resources = free(default_factory=lambda: Resources(num_cpus=0.5))
    generate: Resources = free(default_factory=lambda: Resources(num_cpus=0.6))
    write: Resources = free(default_factory=lambda: Resources(num_cpus=0.1))

    def __post_init__(self) -> None:
        require(self.stall_s > 0, "cluster.stall_s must be positive")
        if self.address == "local":
            self.require_fit(self.local_cpus, float("inf"))

    @property
    def local_cpus(self) -> int:
        return self.num_cpus or max(2, len(os.sched_getaffinity(0)))

    def require_fit(self, num_cpus: float, num_gpus: float = 0.0, device: str = "auto") -> None:
        """Refuse bookings under which Ray would wait for ever without a message."""
        actors = sum(stage.num_actors * stage.num_cpus for stage in (self.encode, self.generate))
        largest = max(stage.num_cpus for stage in (self.read, self.decode, self.write))
        if actors + largest > num_cpus + 1e-9:
            raise ConfigError(
                f"cluster: the actors book {actors:g} CPUs and the largest task {largest:g}, "
                f"but the cluster has {num_cpus:g}"
            )
        gpus = sum(
            getattr(self, stage).num_actors * self.gpu_share(stage, num_gpus, device)
            for stage in ("encode", "generate")
        )
        if gpus > num_gpus + 1e-9:
            raise ConfigError(f"cluster: the actors book {gpus:g} GPUs, but the cluster has {num_gpus:g}")

    def gpu_share(self, stage: str, cluster_gpus: float, device: str) -> float:
        """The GPUs that an actor of `encode` or `generate` books; by default the two share one."""
        booked: float | None = getattr(self, stage).num_gpus
        if booked is not None or device == "cpu":
            return booked or 0.0
        return {"encode": 0.25, "generate": 0.75}[stage] if cluster_gpus or device == "cuda" else 0.0


def start_ray(cluster: Cluster, device: str) -> None:
    """Start or join the cluster, unless this process has done so.

    Its workers find this installation's packages before anything else.

    Raises:
        ConfigError: what the stages book does not fit the cluster.
        RunError: the cluster cannot be reached, or its workers import another `pipeline`.
    """
    _close_to_others(cluster)
    import ray

    if ray.is_initialized():
        return
    # Two actors whose threads spin at OpenMP's barriers on the same cores slow each other down tenfold.
    variables = {"OMP_WAIT_POLICY": os.environ.get("OMP_WAIT_POLICY", "PASSIVE")}
    environment = {"worker_process_setup_hook": _own_packages_first(), "env_vars": variables}
    options: dict[str, Any] = {"runtime_env": environment, "log_to_driver": False}
    if cluster.address == "local":
        options |= {
            "num_cpus": cluster.local_cpus,
            "num_gpus": cluster.num_gpus,
            "object_store_memory": cluster.object_store_bytes,
            "include_dashboard": False,
            "_node_ip_address": "127.0.0.1",
        }
    # The driver's core worker logs to stderr; what matters comes back as an exception.
    quiet = os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal") == "fatal"
    on_sigterm = signal.getsignal(signal.SIGTERM)
    try:
        with _without_stderr() if quiet else nullcontext():
            ray.init(address=cluster.address, logging_level=logging.ERROR, **options)
    except ConnectionError as error:
        raise RunError(f"cluster.address={cluster.address}: {error}") from None
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, on_sigterm)  # Ray's own ends with status 15 and no word
    booked = ray.cluster_resources()
    cluster.require_fit(booked.get("CPU", 0), booked.get("GPU", 0), device)
    _require_own_packages()


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
    travel by value, not as the name of a module that is still to be found.
    """
    root, names = str(Path(__file__).resolve().parent.parent), ("trim", "pipeline", "jobs", "conf")

    def hook() -> None:
        import sys
        from importlib.machinery import PathFinder

        # without names of this module, which the hook cannot bring along
        def find_spec(name, path=None, target=None):
            return PathFinder.find_spec(name, [root]) if path is None and name in names else None

        finder = type("OwnPackages", (), {"find_spec": staticmethod(find_spec)})
        sys.meta_path.insert(0, finder)  # type: ignore[arg-type]

    return hook


def _require_own_packages() -> None:
    """Check in a worker that the hook did its work."""
    import ray

    expected = _package_digest()

    def found() -> str:
        from pipeline import cluster

        return str(cluster._package_digest())

    actual = ray.get(ray.remote(num_cpus=0.1)(found).remote())
    if actual != expected:
        raise RunError("the cluster's workers import another version of `pipeline` than this process")


def _package_digest() -> str:
    """A hash of this package's sources."""
    sources = sorted(Path(__file__).resolve().parent.rglob("*.py"))
    return hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()
