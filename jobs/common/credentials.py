"""Keeps credentials out of command lines, messages and run.json."""

import os
import re
import sys
from collections.abc import Iterable, Mapping, Sequence

CREDENTIALS = ("key", "secret", "token")  # fields of each of STORAGES
STORAGES = ("storage", "source_storage")
_OVERRIDE = re.compile(
    rf"(\+{{0,2}}((?:(?:source_)?storage\.(?:{'|'.join(CREDENTIALS)}|endpoint_url))"
    r"|cluster\.runtime_env(?:\.env_vars(?:\.\w+)?)?))=(.+)",
    re.DOTALL,
)
_TREES = ("cluster.runtime_env", "cluster.runtime_env.env_vars")  # their values are mappings
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
            variable = f"TRIMLINE_{match[2]}".replace(".", "_").upper()
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


def written_out_keys(overrides: Sequence[str]) -> list[str]:
    """List the keys whose credentials the overrides write out, instead of naming environment variables."""
    matches = filter(None, map(_OVERRIDE.fullmatch, overrides))
    return [match[2] for match in matches if _is_credential(match[2], match[3])]


def storage_without_credentials(storage: Mapping[str, object]) -> dict[str, object]:
    """Return the fields of `storage` that may be written into run.json."""
    return {name: value for name, value in storage.items() if name not in CREDENTIALS}


def cluster_without_credentials(cluster: Mapping[str, object]) -> dict[str, object]:
    """Return the fields of `cluster` that may be written into run.json: of variables the names alone."""
    environment = cluster.get("runtime_env")
    if not isinstance(environment, dict) or not isinstance(environment.get("env_vars"), dict):
        return dict(cluster)
    hidden = {str(name): _HIDDEN for name in environment["env_vars"]}
    return {**cluster, "runtime_env": {**environment, "env_vars": hidden}}


def _is_credential(key: str, value: str) -> bool:
    """Tell whether an override writes out what others must not see."""
    if value == "null" or "${" in value:
        return False
    if key.endswith(".endpoint_url"):
        return "@" in value or "?" in value
    return key != "cluster.runtime_env" or "env_vars" in value


def _tree_of(reference: str) -> str:
    """Return the override's value that decodes a variable's text into a mapping."""
    return f"'${{oc.decode:{reference}}}'"


def _unquoted(value: str) -> str:
    return value[1:-1] if len(value) > 1 and value[0] == value[-1] and value[0] in "'\"" else value
