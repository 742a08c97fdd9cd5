"""Frozen configuration of a run, and how much of it makes the fingerprint.

Each field says whether it counts: `counted(...)` for what can change a prediction or a unit's
boundary, `free(...)` for what cannot. `fingerprint_fields` reads that off; a test fails on a field
that does not say.
"""

import dataclasses
from dataclasses import MISSING, field
from typing import Any

from pipeline.support.errors import ConfigError


def counted(default: Any = MISSING, *, default_factory: Any = MISSING, **more: Any) -> Any:
    """A dataclass field that belongs to the fingerprint."""
    return _field(True, default, default_factory, more)


def free(default: Any = MISSING, *, default_factory: Any = MISSING, **more: Any) -> Any:
    """A dataclass field that cannot change a prediction or a boundary."""
    return _field(False, default, default_factory, more)


def _field(counts: bool, default: Any, default_factory: Any, more: dict[str, Any]) -> Any:
    given = {"default": default, "default_factory": default_factory}
    given = {name: value for name, value in given.items() if value is not MISSING}
    return field(**given, metadata={"fingerprint": counts}, **more)


def require(condition: bool, message: str) -> None:
    """Raise ConfigError with `message` unless `condition`."""
    if not condition:
        raise ConfigError(message)


def fingerprint_fields(config: Any) -> dict[str, Any]:
    """The counted fields of a configuration dataclass, nested ones included."""
    counted_fields: dict[str, Any] = {}
    for item in dataclasses.fields(config):
        if item.metadata["fingerprint"]:
            value = getattr(config, item.name)
            nested = dataclasses.is_dataclass(value) and not isinstance(value, type)
            counted_fields[item.name] = fingerprint_fields(value) if nested else value
    return counted_fields
