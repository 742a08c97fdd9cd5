"""Declares fields of configuration dataclasses, and collects those that the fingerprint covers.

Each field is `counted(...)` if it can change a prediction or a unit's boundary, else `free(...)`. A test
fails on a field that is neither. A field that is `counted(..., neutral=True)` is left out while it has its
default, so that outputs made before there was such a field keep their fingerprint.
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
    default: object = MISSING,
    *,
    default_factory: Callable[[], object] | None = None,
    repr: bool = True,
    neutral: bool = False,
) -> Any:
    """Declare a dataclass field that the fingerprint covers; if `neutral`, only unless it has its default."""
    return _field(True, default, default_factory, repr, neutral)


def free(
    default: object = MISSING, *, default_factory: Callable[[], object] | None = None, repr: bool = True
) -> Any:
    """Declare a dataclass field that cannot change a prediction or a boundary."""
    return _field(False, default, default_factory, repr)


def _field(
    counts: bool,
    default: object,
    factory: Callable[[], object] | None,
    repr: bool,
    neutral: bool = False,
) -> object:
    metadata = {"fingerprint": counts, "neutral": neutral}
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
        value = getattr(config, item.name)
        if item.metadata["fingerprint"] and not (item.metadata["neutral"] and value == _default(item)):
            nested = dataclasses.is_dataclass(value) and not isinstance(value, type)
            fields[item.name] = fingerprint_fields(value) if nested else value
    return fields


def _default(item: "dataclasses.Field[Any]") -> object:
    return item.default if item.default_factory is MISSING else item.default_factory()
