"""Turns Hydra's tree into frozen dataclasses, so that no code below `jobs` sees a DictConfig."""

import dataclasses
import logging
import re
from collections.abc import Collection
from typing import Any, TypeVar, get_type_hints

from hydra.utils import get_class
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationToMissingValueError, OmegaConfBaseException

from pipeline.support.errors import ConfigError

Tree = dict[str, Any]  # YAML as data: each group has keys of its own
Built = TypeVar("Built")


def build(config: DictConfig, key: str, kind: type[Built]) -> Built:
    """Make a frozen dataclass from the node at `key`.

    Raises:
        ConfigError: a key is unknown, missing or of the wrong type; a value is refused by its class.
    """
    fields = _fields_at(config, key)
    fields.pop("_target_", None)
    return build_fields(fields, kind, key)


def build_target(config: DictConfig, key: str) -> Any:  # the class is named in the YAML
    """Make the frozen dataclass that the `_target_` of the node at `key` names.

    Raises:
        ConfigError: as `build`, or there is no such dataclass.
    """
    fields = _fields_at(config, key)
    return build_fields(fields, class_of(fields.pop("_target_", None), key), key)


def _fields_at(config: DictConfig, key: str) -> Tree:
    node = config[key]
    if not isinstance(node, DictConfig):
        raise ConfigError(f"{key}={node}: choose one of the group's options, as in {key}=NAME")
    return to_dict(node)


def to_dict(config: DictConfig) -> Tree:
    """Convert a node to plain data, with its references resolved; a missing value stays `???`.

    Raises:
        ConfigError: a reference leads to a missing value.
    """
    try:
        tree = OmegaConf.to_container(config, resolve=True, throw_on_missing=False)
    except InterpolationToMissingValueError as error:
        missing = re.search(r"value: (\S+)", str(error))
        raise ConfigError(f"{missing[1]} must be given" if missing else str(error).splitlines()[0]) from None
    assert isinstance(tree, dict)
    return {str(name): value for name, value in tree.items()}


def build_top(config: DictConfig, kind: type[Built], groups: Collection[str]) -> Built:
    """Make a dataclass of a command's own top-level keys, which are all but its groups."""
    return build_fields(top_keys(config, groups), kind, "")


def top_keys(config: DictConfig, groups: Collection[str]) -> Tree:
    """Return a command's top-level keys without its groups, as plain data."""
    return {key: value for key, value in to_dict(config).items() if key not in groups}


def build_fields(fields: Tree, kind: type[Built], key: str) -> Built:
    """Make a dataclass from plain data; OmegaConf checks and converts the types.

    Raises:
        ConfigError: as `build`.
    """
    prefix = f"{key}." if key else ""
    schema = OmegaConf.structured(kind)
    _make_writable(schema)
    try:
        _require_lists(kind, fields, prefix)
        merged = OmegaConf.merge(schema, fields)
        # `???` in the YAML means required, even if the class has a default
        missing = sorted(OmegaConf.missing_keys(merged) | OmegaConf.missing_keys(OmegaConf.create(fields)))
        if missing:
            raise ConfigError(f"{prefix}{missing[0]} must be given")
        built = OmegaConf.to_object(merged)
    except OmegaConfBaseException as error:
        name = getattr(error, "full_key", None) or ""
        where = f"{prefix}{name}".rstrip(".")
        raise ConfigError(f"{where}: {str(error).splitlines()[0]}") from None
    except ValueError as error:
        raise ConfigError(f"{key}: {error}") from None
    assert isinstance(built, kind)
    return built


def _require_lists(kind: type, fields: Tree, prefix: str) -> None:
    """Refuse a value that is no list of texts where one is wanted; OmegaConf takes lists of lists."""
    for name in (name for name, hint in get_type_hints(kind).items() if hint == list[str] and name in fields):
        value, key = fields[name], prefix + name
        if isinstance(value, list) and not any(isinstance(item, list | dict) for item in value):
            continue
        if value is not None and value != "???":
            raise ConfigError(f'{key}: {value!r} is no list of texts, as in \'{key}=["one","two"]\'')


def class_of(target: object, key: str) -> type:
    """Import the dataclass that a `_target_` names.

    Raises:
        ConfigError: there is no such class, or it is no dataclass.
    """
    if target is None:
        raise ConfigError(f"{key}: the option has no _target_")
    if not isinstance(target, str):
        raise ConfigError(f"{key}._target_: {target!r} names no class")
    logging.getLogger("hydra.utils").setLevel(logging.CRITICAL)  # it logs what it raises, in many lines
    try:
        named = get_class(target)
    except (ImportError, ValueError) as error:
        raise ConfigError(f"{key}._target_: {error}") from None
    if not dataclasses.is_dataclass(named):
        raise ConfigError(f"{key}._target_: {target} is not a dataclass")
    return named


def _make_writable(node: DictConfig) -> None:
    """Unlock a schema for merging: frozen dataclasses make read-only nodes."""
    OmegaConf.set_readonly(node, False)
    for name in node:
        child = node._get_node(name)
        if isinstance(child, DictConfig) and not child._is_none() and not child._is_missing():
            _make_writable(child)
