"""Runs a command as a job of a Ray cluster and follows its log (`cluster.submit=true`)."""

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hydra.core.hydra_config import HydraConfig

from jobs.common.credentials import written_out_keys
from jobs.common.escapes import encoded
from pipeline.run.cluster.job_server import run_job
from pipeline.run.cluster.ship import packages
from pipeline.run.cluster.worker_environment import without_secrets
from pipeline.storage.paths import parts_of
from pipeline.support.errors import ConfigError

if TYPE_CHECKING:
    from pipeline.run.config import RunConfig


def submit(command: str, overrides: Sequence[str], config: "RunConfig") -> int:
    """Send the packages and the command, print the job's log as it comes; returns the job's exit status.

    Raises:
        ConfigError: a path is of this machine alone, or the cluster's users would see a credential.
        RunError: the job server cannot be reached, or could not start the job.
    """
    _require_portable(config)
    _require_no_credentials(overrides)
    user_conf = _user_conf()
    entrypoint = shlex.join(
        [
            *("python", "-m", "jobs.main", command, *(("--config-dir", *user_conf) if user_conf else ())),
            *(*_without_placement(overrides), f"output={config.options.output}"),  # in a sweep: this point's
            *("cluster.submit=false", "cluster.ship=false", "cluster.address=auto"),
        ]
    )
    with packages(**user_conf) as folder:
        environment = {**without_secrets(config.cluster.runtime_env or {}), "working_dir": folder}
        return run_job(str(config.cluster.dashboard), entrypoint, environment)


def _require_portable(config: "RunConfig") -> None:
    """Refuse relative paths: they mean another folder on the node where the job's driver will run."""
    places = [("output", config.options.output)]
    places += [("source.path", part) for part in parts_of(config.source.path)]
    places += [("source.listing", config.source.listing)] if config.source.listing else []
    for key, place in places:
        if ":" not in place and not Path(place).is_absolute():
            raise ConfigError(
                f"{key}={place}: a submitted run needs a URI, or an absolute path that all nodes have"
            )
    for key in ("path", "clip"):
        place = getattr(config.model, key)
        if not Path(place).is_absolute() and Path(place).exists():
            raise ConfigError(f"model.{key}={place}: a submitted run needs a hub id, or an absolute path")


def _require_no_credentials(overrides: Sequence[str]) -> None:
    """Refuse credentials: everyone who may list the cluster's jobs sees their command lines."""
    for key in written_out_keys(overrides):
        raise ConfigError(
            f"{key}: a job's command line is open to the cluster's users; set it in the nodes' own "
            f"environment, as AWS_SECRET_ACCESS_KEY or, by any NAME, with '{key}=${{oc.env:NAME}}'"
        )


def _user_conf() -> dict[str, str]:
    """Return the folder that --config-dir names, if any, and its name in the job."""
    sources = HydraConfig.get().runtime.config_sources
    folders = [source.path for source in sources if source.provider == "command-line"]
    return {"own_conf": folders[0]} if folders else {}


def _without_placement(overrides: Sequence[str]) -> list[str]:
    """Return the overrides without those that `submit` sets itself, as a command line has them."""
    placement = ("cluster.submit=", "cluster.ship=", "cluster.address=", "cluster.dashboard=", "output=")
    kept = [override for override in overrides if not override.lstrip("+").startswith(placement)]
    return [encoded(override) for override in kept]
