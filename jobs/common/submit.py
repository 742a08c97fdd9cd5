"""`cluster.submit=true`: a command as a job of a Ray cluster, whose log is followed here."""

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hydra.core.hydra_config import HydraConfig

from pipeline.run.cluster.job_server import run_job
from pipeline.run.cluster.ship import packages
from pipeline.support.errors import ConfigError

if TYPE_CHECKING:
    from pipeline.run.config import RunConfig

_SECRETS = ("key", "secret", "token")


def submit(command: str, overrides: Sequence[str], config: "RunConfig") -> int:
    """Send the packages and the command, print the job's log as it comes; returns the job's exit status.

    Raises:
        ConfigError: a path that only this machine knows; a secret that would be told to the cluster's users.
        RunError: the job server cannot be reached, or could not start the job.
    """
    _require_portable(config)
    _require_no_secret(overrides)
    own = _own_conf()
    entrypoint = shlex.join(
        [
            *("python", "-m", "jobs.main", command, *(("--config-dir", *own) if own else ())),
            *(*_without_ours(overrides), f"output={config.options.output}"),  # of a sweep: of this point
            *("cluster.submit=false", "cluster.ship=false", "cluster.address=auto"),
        ]
    )
    with packages(**own) as folder:
        environment = {**(config.cluster.runtime_env or {}), "working_dir": folder}
        return run_job(str(config.cluster.dashboard), entrypoint, environment)


def _require_portable(config: "RunConfig") -> None:
    """A relative path means another place on the node where the job's driver will run."""
    places = {"output": config.options.output, "source.path": getattr(config.source, "path", "")}
    for key, place in places.items():
        if ":" not in place and not Path(place).is_absolute():
            raise ConfigError(
                f"{key}={place}: a submitted run needs a URI, or an absolute path that all nodes have"
            )
    for key in ("path", "clip"):
        place = getattr(config.model, key)
        if not Path(place).is_absolute() and Path(place).exists():
            raise ConfigError(f"model.{key}={place}: a submitted run needs a hub id, or an absolute path")


def _require_no_secret(overrides: Sequence[str]) -> None:
    """Whoever may look at the cluster's jobs sees their command lines."""
    for override in overrides:
        key, _, value = override.lstrip("+").partition("=")
        if (
            key.startswith("storage.")
            and key.partition(".")[2] in _SECRETS
            and "${" not in value
            and value != "null"
        ):
            raise ConfigError(
                f"{key}: a job's command line is open to the cluster's users; set it in the nodes' own "
                f"environment, as AWS_SECRET_ACCESS_KEY or, by any NAME, with '{key}=${{oc.env:NAME}}'"
            )


def _own_conf() -> dict[str, str]:
    """The user's own folder of configuration, if --config-dir names one, by its name at the job's."""
    sources = HydraConfig.get().runtime.config_sources
    own = [source.path for source in sources if source.provider == "command-line"]
    return {"own_conf": own[0]} if own else {}


def _without_ours(overrides: Sequence[str]) -> list[str]:
    ours = ("cluster.submit=", "cluster.ship=", "cluster.address=", "cluster.dashboard=", "output=")
    return [override for override in overrides if not override.lstrip("+").startswith(ours)]
