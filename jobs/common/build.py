"""From Hydra's tree to frozen dataclasses; below this there is no DictConfig."""

import dataclasses
import logging
from typing import Any

from hydra.utils import get_class
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from pipeline.support.errors import ConfigError


def build(config: DictConfig, key: str, kind: type | None = None) -> Any:
    """The frozen dataclass that the node at `key` describes: of type `kind`, or of its own `_target_`.

    Raises:
        ConfigError: a key is unknown, missing or of the wrong type; a value is refused by its class.
    """
    node = config[key]
    if not isinstance(node, DictConfig):
        raise ConfigError(f"{key}={node}: choose one of the group's options, as in {key}=NAME")
    fields = plain(node)
    target = fields.pop("_target_", None)
    return build_fields(fields, kind or class_of(target, key), key)


def plain(config: DictConfig) -> dict[str, Any]:
    """A node as data, resolved; what is missing stays `???`."""
    tree = OmegaConf.to_container(config, resolve=True, throw_on_missing=False)
    assert isinstance(tree, dict)
    return {str(name): value for name, value in tree.items()}


def build_fields(fields: dict[Any, Any], kind: type, key: str) -> Any:
    """An object of a dataclass from plain data, types checked and converted by OmegaConf."""
    prefix = f"{key}." if key else ""
    schema = OmegaConf.structured(kind)
    _make_writable(schema)
    try:
        merged = OmegaConf.merge(schema, fields)
        # a ??? in a YAML counts, too, where the class has a default
        missing = sorted(OmegaConf.missing_keys(merged) | OmegaConf.missing_keys(OmegaConf.create(fields)))
        if missing:
            raise ConfigError(f"{prefix}{missing[0]} must be given")
        return OmegaConf.to_object(merged)
    except OmegaConfBaseException as error:
        name = getattr(error, "full_key", None) or ""
        where = f"{prefix}{name}".rstrip(".")
        raise ConfigError(f"{where}: {str(error).splitlines()[0]}") from None
    except ValueError as error:
        raise ConfigError(f"{key}: {error}") from None


def class_of(target: str | None, key: str) -> type:
    """The dataclass that a `_target_` names; ConfigError if it is none."""
    if target is None:
        raise ConfigError(f"{key}: the option has no _target_")
    logging.getLogger("hydra.utils").setLevel(logging.CRITICAL)  # it logs what it raises, in many lines
    try:
        found = get_class(target)
    except (ImportError, ValueError) as error:
        raise ConfigError(f"{key}._target_: {error}") from None
    if not dataclasses.is_dataclass(found):
        raise ConfigError(f"{key}._target_: {target} is not a dataclass")
    return found


def _make_writable(node: DictConfig) -> None:
    """Frozen dataclasses make read-only nodes, which cannot be merged into."""
    OmegaConf.set_readonly(node, False)
    for name in node:
        child = node._get_node(name)
        if isinstance(child, DictConfig) and not child._is_none() and not child._is_missing():
            _make_writable(child)
