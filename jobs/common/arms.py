"""Arms and reducers by the names of their options, beside the one that a command line chose."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from jobs.common.build import build, plain
from pipeline.support.errors import ConfigError

if TYPE_CHECKING:
    from trim import Reducer

CONTROL = "control"
_NAME = re.compile(r"[A-Za-z0-9_+-][A-Za-z0-9_.,=+-]*")
_PARTS = ("engine", "model")


@dataclass(frozen=True)
class ArmSpec:
    """An arm as a command line describes it.

    `fields` are the reducer's; `parts` has, for `engine` and `model`, another option of the group or fields
    of the one that is configured. `other_batches` answers in other batches than the engine's own.
    """

    name: str
    reducer: str
    fields: dict[str, Any] = field(default_factory=dict)
    parts: dict[str, Any] = field(default_factory=dict)
    budget_of: str | None = None
    other_batches: bool = False


def arm_specs(arms: Any) -> list[ArmSpec]:
    """The arms that a list of names or a mapping describes; a list as a value makes an arm of each item.

    Raises:
        ConfigError: a name is no folder name or stands twice, or an arm has no reducer.
    """
    named: list[tuple[Any, Any]] = []
    if isinstance(arms, Mapping):
        named = list(arms.items())
    elif isinstance(arms, Sequence) and not isinstance(arms, str):
        named = [(name, {}) for name in arms]
    specs = [spec for name, given in named for spec in _specs(str(name), given)]
    if not specs:
        raise ConfigError(f"arms: {arms!r} is neither a list of reducers nor a mapping of names to settings")
    names = [spec.name for spec in specs]
    for name in names:
        if not _NAME.fullmatch(name) or names.count(name) > 1:
            raise ConfigError(f"arms: {name!r} stands twice or cannot name a folder")
    return specs


def _specs(name: str, given: Any) -> list[ArmSpec]:
    if not isinstance(given, Mapping):
        raise ConfigError(f"arms.{name}: {given!r} is no mapping, as in {{reducer: trim, aggregate: false}}")
    single = {str(key): value for key, value in given.items() if not isinstance(value, list)}
    several = {str(key): value for key, value in given.items() if isinstance(value, list)}
    specs = []
    for values in product(*several.values()):
        point = dict(zip(several, values, strict=True))
        suffix = "".join(f"-{key}={value}" for key, value in point.items())
        specs.append(_spec(name + suffix, name, {**single, **point}))
    return specs


def _spec(name: str, stem: str, given: dict[str, Any]) -> ArmSpec:
    other_batches = stem == CONTROL and "reducer" not in given
    reducer = given.pop("reducer", "full" if other_batches else stem)
    budget_of = given.pop("budget_of", None)
    parts = {key: given.pop(key) for key in _PARTS if key in given}
    return ArmSpec(name, reducer, given, parts, None if budget_of is None else str(budget_of), other_batches)


def compose_arm(spec: ArmSpec) -> DictConfig:
    """The command's configuration as if the arm's reducer, engine and model had been given.

    Raises:
        ConfigError: there is no such option or field.
    """
    chosen = {"reducer": spec.reducer}
    chosen |= {key: part for key, part in spec.parts.items() if isinstance(part, str)}
    config = _composed(chosen)
    merged = {"reducer": spec.fields}
    merged |= {key: part for key, part in spec.parts.items() if not isinstance(part, str)}
    for key, fields in merged.items():
        OmegaConf.set_struct(config[key], True)
        try:
            config[key] = OmegaConf.merge(config[key], fields)
        except (OmegaConfBaseException, ValueError) as error:
            raise ConfigError(f"{key}: {str(error).splitlines()[0]}") from None
    return config


def reducer_names() -> list[str]:
    """Every option of the group `reducer`, those of the user's own --config-dir among them."""
    return _options("reducer")


def _options(group: str) -> list[str]:
    from hydra.core.global_hydra import GlobalHydra

    return sorted(GlobalHydra.instance().config_loader().get_group_options(group))


def make_reducer(name: str, overrides: dict[str, Any] | None = None) -> "tuple[Reducer, dict[str, Any]]":
    """A reducer and its settings as data, composed as if `reducer=name` had been given.

    `overrides` are fields of that reducer. Everything else, such as `model.trim_sign`, is the command's own.

    Raises:
        ConfigError: there is no such option or field, or a value is refused.
    """
    config = compose_arm(ArmSpec(name, name, overrides or {}))
    return build(config, "reducer"), plain(config.reducer)


def _composed(chosen: dict[str, str]) -> DictConfig:
    from hydra import compose
    from hydra.core.hydra_config import HydraConfig

    for group, name in chosen.items():
        if name not in _options(group):
            raise ConfigError(f"there is no {group} {name!r}; there is: {', '.join(_options(group))}")
    hydra = HydraConfig.get()
    own = tuple(f"{group}{mark}" for group in chosen for mark in ("=", "."))
    given = [item for item in hydra.overrides.task if not item.lstrip("+~").startswith(own)]
    return compose(hydra.job.config_name, [*given, *(f"{group}={name}" for group, name in chosen.items())])
