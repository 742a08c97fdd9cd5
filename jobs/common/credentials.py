"""Keeps credentials out of command lines, messages and run.json."""

import os
import re
import sys
from collections.abc import Iterable, Mapping, Sequence

CREDENTIALS = ("key", "secret", "token")  # fields of each of STORAGES
STORAGES = ("storage", "source_storage")
_OVERRIDE = re.compile(rf"(\+{{0,2}}((?:source_)?storage)\.({'|'.join(CREDENTIALS)}))=(.+)", re.DOTALL)


def restart_without_credentials() -> None:
    """Replace this process by one whose command line names environment variables in place of credentials.

    Ray records a driver's command line in the cluster, and `ps` shows it to everyone. Does nothing if the
    command line has no credentials.
    """
    arguments, environment = list(sys.orig_argv), dict(os.environ)
    for index, argument in enumerate(arguments):
        match = _OVERRIDE.fullmatch(argument)
        if match and _is_written_out(match[4]):
            variable = f"TRIMLINE_{match[2]}_{match[3]}".upper()
            environment[variable] = _unquoted(match[4])
            arguments[index] = f"{match[1]}=${{oc.env:{variable}}}"
    if arguments != sys.orig_argv:
        os.execve(sys.executable, arguments, environment)


def credentials_in(arguments: Iterable[str]) -> list[str]:
    """Collect the values of all credentials in some overrides."""
    return [_unquoted(match[4]) for match in map(_OVERRIDE.fullmatch, arguments) if match]


def written_out_keys(overrides: Sequence[str]) -> list[str]:
    """List the keys whose credentials the overrides write out, instead of naming environment variables."""
    matches = filter(None, map(_OVERRIDE.fullmatch, overrides))
    return [match[1].lstrip("+") for match in matches if _is_written_out(match[4])]


def without_credentials(storage: Mapping[str, object]) -> dict[str, object]:
    """Return the fields of `storage` that may be written into run.json."""
    return {name: value for name, value in storage.items() if name not in CREDENTIALS}


def _is_written_out(value: str) -> bool:
    return value != "null" and "${" not in value


def _unquoted(value: str) -> str:
    return value[1:-1] if len(value) > 1 and value[0] == value[-1] and value[0] in "'\"" else value
