"""Declares fields of configuration dataclasses, and collects those that the fingerprint covers.

Each field is `counted(...)`, or `counted_unless(...)`, if it can change a prediction or a unit's boundary,
else `free(...)`. A test fails on a field that is neither.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import MISSING, field
from typing import TYPE_CHECKING, Any

from pipeline.support.errors import ConfigError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


# Like dataclasses.field, both return Any: the field's annotation says the type.
def counted(
    default: object = MISSING, *, default_factory: Callable[[], object] | None = None, repr: bool = True
) -> Any:
    """Declare a dataclass field that the fingerprint covers."""
    return _field({"fingerprint": True}, default, default_factory, repr)


def counted_unless(neutral: object) -> Any:
    """Declare a field with the default `neutral`, which the fingerprint covers while it has another value.

    Outputs that were begun before there was the field keep their fingerprints.
    """
    return _field({"fingerprint": True, "neutral": neutral}, neutral, None, True)


def free(
    default: object = MISSING, *, default_factory: Callable[[], object] | None = None, repr: bool = True
) -> Any:
    """Declare a dataclass field that cannot change a prediction or a boundary."""
    return _field({"fingerprint": False}, default, default_factory, repr)


def _field(
    metadata: dict[str, object], default: object, factory: Callable[[], object] | None, repr: bool
) -> object:
    if factory is not None:
        return field(default_factory=factory, repr=repr, metadata=metadata)
    if default is MISSING:
        return field(repr=repr, metadata=metadata)
    return field(default=default, repr=repr, metadata=metadata)


def require(condition: bool, message: str) -> None:
    """Raise ConfigError with `message` unless `condition`."""
    if not condition:
        raise ConfigError(message)


def fingerprint_fields(config: "DataclassInstance") -> dict[str, object]:
    """Collect the counted fields of a configuration dataclass, nested ones included."""
    fields: dict[str, object] = {}
    for item in dataclasses.fields(config):
        if item.metadata["fingerprint"]:
            value = getattr(config, item.name)
            if "neutral" in item.metadata and value == item.metadata["neutral"]:
                continue
            nested = dataclasses.is_dataclass(value) and not isinstance(value, type)
            fields[item.name] = fingerprint_fields(value) if nested else value
    return fields
