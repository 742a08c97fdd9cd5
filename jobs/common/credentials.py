"""Keeps credentials out of command lines, messages and run.json."""

import contextlib
import os
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

CREDENTIALS = ("key", "secret", "token")  # fields of each of STORAGES
STORAGES = ("storage", "source_storage")
_OVERRIDE = re.compile(r"(\+{0,2}([\w./-]+))=(.+)", re.DOTALL)
_STORAGE = re.compile(rf"(?:source_)?storage\.(?:{'|'.join(CREDENTIALS)})")
_VARIABLES = re.compile(r"cluster\.runtime_env(?:\.env_vars(?:\.\w+)?)?")
_TREES = ("cluster.runtime_env", "cluster.runtime_env.env_vars")  # their values are mappings
# Names of fields of a user's own classes whose values are secret.
_SECRET_FIELD = re.compile(
    r"(?:\w*_)?(?:password|passwd|pwd|secret|credentials?"
    r"|(?:api|access|secret|account|private)_?key|(?:auth|access|api|bearer|hf|sas|session)_?token)",
    re.IGNORECASE,
)
_LEAST_VARIABLE = 8  # characters of a variable's value that is hidden in messages: `false` is not
_HIDDEN = "***"


def restart_without_credentials() -> None:
    """Replace this process by one whose command line names environment variables in place of credentials.

    Ray records a driver's command line in the cluster, and `ps` shows it to everyone. Does nothing if the
    command line has no credentials.
    """
    arguments, environment = list(sys.orig_argv), dict(os.environ)
    for index, argument in enumerate(arguments):
        match = _OVERRIDE.fullmatch(argument)
        if match and _is_credential(match[2], match[3]):
            variable = re.sub(r"\W", "_", f"TRIMLINE_{match[2]}").upper()
            environment[variable] = match[3] if match[2] in _TREES else _unquoted(match[3])
            reference = f"${{oc.env:{variable}}}"
            arguments[index] = f"{match[1]}={_tree_of(reference) if match[2] in _TREES else reference}"
    if arguments != sys.orig_argv:
        os.execve(sys.executable, arguments, environment)


def credentials_in(arguments: Iterable[str]) -> list[str]:
    """Collect the values of all credentials in some overrides."""
    matches = filter(None, map(_OVERRIDE.fullmatch, arguments))
    return [
        _unquoted(match[3])
        for match in matches
        if match[2] not in _TREES and _is_credential(match[2], match[3])
    ]


def credentials_of(config: DictConfig) -> list[str]:
    """Collect the values of all credentials in a composed configuration."""
    variables = _value(config, "cluster.runtime_env.env_vars")
    values = [str(value) for value in variables.values()] if isinstance(variables, Mapping) else []
    keys = [f"{part}.{name}" for part in STORAGES for name in CREDENTIALS]
    keys += _secret_fields(OmegaConf.to_container(config))
    found = [_value(config, key) for key in keys]
    return [value for value in values if len(value) >= _LEAST_VARIABLE] + [
        str(value) for value in found if value is not None
    ]


def written_out_keys(overrides: Sequence[str]) -> list[str]:
    """List the keys whose credentials the overrides write out, instead of naming environment variables."""
    matches = filter(None, map(_OVERRIDE.fullmatch, overrides))
    return [match[2] for match in matches if _is_credential(match[2], match[3])]


def settings_without_credentials(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the part of a configuration that may be written into run.json.

    The storages' credentials are left out; of the workers' variables and of secret fields the names stay.
    """
    kept = {name: without_secret_fields(part) for name, part in settings.items()}
    for part in STORAGES:
        if isinstance(settings.get(part), Mapping):
            kept[part] = {name: value for name, value in settings[part].items() if name not in CREDENTIALS}
    cluster = kept.get("cluster") or {}
    environment = cluster.get("runtime_env")
    if isinstance(environment, dict) and isinstance(environment.get("env_vars"), dict):
        hidden = {str(name): _HIDDEN for name in environment["env_vars"]}
        kept["cluster"] = {**cluster, "runtime_env": {**environment, "env_vars": hidden}}
    return kept


def without_secret_fields(part: Any) -> Any:  # any JSON
    """Return a part of a configuration with stars for the values of secret fields."""
    if isinstance(part, Mapping):
        return {
            name: _HIDDEN if _is_secret_field(name, value) else without_secret_fields(value)
            for name, value in part.items()
        }
    return [without_secret_fields(value) for value in part] if isinstance(part, list) else part


def _secret_fields(part: Any, place: str = "") -> list[str]:  # any JSON
    """List the dotted keys of secret fields."""
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
    return isinstance(value, str) and _SECRET_FIELD.fullmatch(str(name)) is not None


def _is_credential(key: str, value: str) -> bool:
    """Tell whether an override writes out what others must not see."""
    if value == "null" or "${" in value:
        return False
    if _STORAGE.fullmatch(key) or _SECRET_FIELD.fullmatch(key.rpartition(".")[2]):
        return True
    if _VARIABLES.fullmatch(key):
        return key != "cluster.runtime_env" or "env_vars" in value
    return "://" in value and _holds_credentials(key, value)


def _holds_credentials(key: str, value: str) -> bool:
    from pipeline.storage.secrets import hide_in_urls

    return hide_in_urls(value) != value or (key.endswith(".endpoint_url") and "?" in value)


def _tree_of(reference: str) -> str:
    """Return the override's value that decodes a variable's text into a mapping."""
    return f"'${{oc.decode:{reference}}}'"


def _unquoted(value: str) -> str:
    return value[1:-1] if len(value) > 1 and value[0] == value[-1] and value[0] in "'\"" else value
