"""Keeps credentials out of command lines, messages and run.json."""

import contextlib
import itertools
import os
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from jobs.common.build import Tree, to_dict
from jobs.common.written_out import CREDENTIALS, SECRET_FIELD, STORAGES, with_references

_HIDDEN = "***"
_MOVED = "${oc.env:TRIMLINE_"  # how a secret that was moved into the environment is named


def restart_without_credentials() -> None:
    """Replace this process by one whose command line names environment variables in place of credentials.

    Ray records a driver's command line in the cluster, and `ps` shows it to everyone. Does nothing if the
    command line has no credentials.
    """
    environment = dict(os.environ)

    def refer(key: str, secret: str) -> str:
        variable = name = re.sub(r"\W", "_", f"TRIMLINE_{key}").upper()
        numbers = itertools.count(2)
        while moved.setdefault(variable, secret) != secret:
            variable = f"{name}_{next(numbers)}"
        return f"${{oc.env:{variable}}}"

    moved: dict[str, str] = {}
    arguments = [with_references(argument, refer) for argument in sys.orig_argv]
    if arguments != sys.orig_argv:
        os.execve(sys.executable, arguments, environment | moved)


def credentials_in(arguments: Iterable[str]) -> list[str]:
    """Collect the values of all credentials in some overrides."""
    return [secret for _, secret in _written_out(arguments)]


def credentials_of(config: DictConfig) -> list[str]:
    """Collect the values of all credentials in a composed configuration."""
    from pipeline.storage.secrets import FAIR

    variables = _value(config, "cluster.runtime_env.env_vars")
    values = [str(value) for value in variables.values()] if isinstance(variables, Mapping) else []
    keys = [f"{part}.{name}" for part in STORAGES for name in CREDENTIALS]
    found = [str(value) for value in (_value(config, key) for key in keys) if value is not None]
    return [value for value in values if len(value) >= FAIR] + found + secret_fields_of(config)


def secret_fields_of(config: DictConfig) -> list[str]:
    """Collect the values of secret fields of a user's own classes, which their errors may tell."""
    found = [_value(config, key) for key in _secret_fields(OmegaConf.to_container(config))]
    return [str(value) for value in found if value is not None]


def written_out_keys(overrides: Sequence[str]) -> list[str]:
    """List the keys whose credentials the overrides write out, instead of naming environment variables."""
    moved = [override.partition("=")[0].lstrip("+") for override in overrides if _MOVED in override]
    return [key for key, _ in _written_out(overrides)] + moved


def _written_out(overrides: Iterable[str]) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []

    def keep(key: str, secret: str) -> str:
        found.append((key, secret))
        return ""

    for override in overrides:
        with_references(override, keep)
    return found


def settings_without_credentials(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the part of a configuration that may be written into run.json.

    The storages' credentials are left out; of the workers' variables and of secret fields the names stay.
    """
    kept = {name: _without_secret_fields(part) for name, part in settings.items()}
    for part in STORAGES:
        if isinstance(settings.get(part), Mapping):
            kept[part] = {name: value for name, value in settings[part].items() if name not in CREDENTIALS}
    cluster = kept.get("cluster") or {}
    environment = cluster.get("runtime_env")
    if isinstance(environment, dict) and isinstance(environment.get("env_vars"), dict):
        hidden = {str(name): _HIDDEN for name in environment["env_vars"]}
        kept["cluster"] = {**cluster, "runtime_env": {**environment, "env_vars": hidden}}
    return kept


def shown_settings(config: DictConfig) -> Tree:
    """Convert a part of a configuration to what of it may be written into run.json."""
    shown: Tree = _without_secret_fields(to_dict(config))
    return shown


def _without_secret_fields(part: Any) -> Any:  # any JSON
    """Return a part of a configuration with stars for the values of secret fields."""
    if isinstance(part, Mapping):
        return {
            name: _HIDDEN if _is_secret_field(name, value) else _without_secret_fields(value)
            for name, value in part.items()
        }
    return [_without_secret_fields(value) for value in part] if isinstance(part, list) else part


def _secret_fields(part: Any, place: str = "") -> list[str]:  # any JSON
    """List the dotted keys of secret fields."""
    if isinstance(part, list):
        return [key for index, value in enumerate(part) for key in _secret_fields(value, f"{place}{index}.")]
    if not isinstance(part, Mapping):
        return []
    below = [key for name, value in part.items() for key in _secret_fields(value, f"{place}{name}.")]
    return below + [f"{place}{name}" for name, value in part.items() if _is_secret_field(name, value)]


def _value(config: DictConfig, key: str) -> Any:  # of a configuration
    """Look up a dotted key; None if it is missing or refers to nothing, which is told elsewhere."""
    with contextlib.suppress(OmegaConfBaseException):
        return OmegaConf.select(config, key)
    return None


def _is_secret_field(name: object, value: object) -> bool:
    is_plain = isinstance(value, str | int | float) and not isinstance(value, bool)
    return is_plain and SECRET_FIELD.fullmatch(str(name)) is not None
