"""Finds the secrets that an override writes out, however it is quoted and nested."""

import re
from collections.abc import Callable
from typing import Any

CREDENTIALS = ("key", "secret", "token")  # fields of each of STORAGES
STORAGES = ("storage", "source_storage")
# Names of fields of a user's own classes whose values are secret.
SECRET_FIELD = re.compile(
    r"token|(?:[\w-]*[_-])?(?:password|passwd|passphrase|pwd|secret|credentials?|authorization"
    r"|(?:api|access|secret|account|private)[_-]?key|(?:auth|access|api|bearer|hf|github|sas|session)[_-]?token)",
    re.IGNORECASE,
)
_OVERRIDE = re.compile(r"([+~]{0,2}(\w[\w./-]*))=(.+)", re.DOTALL)
_VARIABLES = ("cluster", "runtime_env", "env_vars")
_SUSPECT = re.compile(
    r"key|secret|token|passw|passphrase|pwd|credential|authorization|env|://|endpoint_url", re.IGNORECASE
)
_NAMED = re.compile(rf"\b(?:{SECRET_FIELD.pattern}|key|secret|token|env_vars)['\"]?\s*:", re.IGNORECASE)

Refer = Callable[[str, str], str]  # from a dotted key and its secret to what stands in its place


def with_references(argument: str, refer: Refer) -> str:
    """Return an override with `refer(key, secret)` in place of each secret that it writes out."""
    match = _OVERRIDE.fullmatch(argument)
    if match is None or not _SUSPECT.search(argument):
        return argument
    start, key, text = match.groups()
    path = tuple(key.replace("/", ".").split("."))
    value = _parsed(argument)
    if value is None:  # the whole, which is refused, or is a secret with signs of Hydra's own
        is_secret = _is_secret(path, text) or _NAMED.search(text)
        return f"{start}={refer(key, _unquoted(text))}" if is_secret else argument
    if not isinstance(value, list | dict) and not set(text) & set("'\"\\"):
        value = text  # not as the number that it may look like
    new = _replaced(value, path, refer)
    return argument if new == value else f"{start}={_written(new)}"


def _parsed(argument: str) -> Any:  # any value of Hydra's
    """Parse an override; None if Hydra cannot, a tuple if it is a sweep over several values."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.core.override_parser.types import ChoiceSweep
    from hydra.errors import HydraException

    try:
        value = OverridesParser.create().parse_override(argument)._value
    except HydraException:
        return None
    return tuple(value.list) if isinstance(value, ChoiceSweep) else value


def _replaced(value: Any, path: tuple[str, ...], refer: Refer) -> Any:  # any value of Hydra's
    if isinstance(value, dict):
        return {name: _replaced(part, (*path, _text(name)), refer) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_replaced(part, path, refer) for part in value)
    from hydra.core.override_parser.types import Quote, QuotedString

    if value is None or isinstance(value, bool) or not _is_secret(path, _text(value)):
        return value
    return QuotedString(refer(".".join(path), _text(value)), Quote.single)


def _written(value: Any) -> str:  # any value of Hydra's
    from hydra.core.override_parser.types import Override, QuotedString

    if isinstance(value, tuple):
        return ",".join(_written(part) for part in value)
    if isinstance(value, QuotedString) and re.fullmatch(r"\$\{[^'\"]*\}", value.text):
        return value.text  # a reference needs no quotes
    return Override._get_value_element_as_str(value)


def _is_secret(path: tuple[str, ...], text: str) -> bool:
    """Tell whether others must not see the value at a key."""
    if text in ("", "null") or "${" in text:
        return False
    if (path[0] in STORAGES and path[-1] in CREDENTIALS) or SECRET_FIELD.fullmatch(path[-1]):
        return True
    if path[:3] == _VARIABLES or path == _VARIABLES[:2]:
        return True
    if path[-1] == "endpoint_url" and set(text) & set("?@"):
        return True
    from pipeline.storage.secrets import hide_in_urls

    return "://" in text and hide_in_urls(text) != text


def _text(value: object) -> str:
    return str(getattr(value, "text", value))


def _unquoted(value: str) -> str:
    return value[1:-1] if len(value) > 1 and value[0] == value[-1] and value[0] in "'\"" else value
