"""Builds arms and reducers from the names of their options, whatever the command line chose itself."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import TYPE_CHECKING

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from jobs.common.build import Tree, build_target
from jobs.common.credentials import shown_settings
from pipeline.support.errors import ConfigError

if TYPE_CHECKING:
    from trim import Reducer

CONTROL = "control"
_PARTS = ("engine", "model", "clip_text")
_NAME = re.compile(r"[A-Za-z0-9_+-][A-Za-z0-9_.,=+-]*")  # of an arm, and of its folder
_OPTIONS = ("engine", "model")  # parts that are groups of the configuration: the name of an option will do
_NOT_OF_REDUCER = ("reducer", "budget_of", *_PARTS)


@dataclass(frozen=True)
class ArmSpec:
    """Holds an arm as a command line describes it.

    Args:
        fields: of the reducer.
        parts: fields of the configured `engine`, `model` or `clip_text`, or another option of the first two.
        other_batches: answer in other batches than the engine's own.
    """

    name: str
    reducer: str
    fields: Tree = field(default_factory=dict)
    parts: Tree = field(default_factory=dict)
    budget_of: str | None = None
    other_batches: bool = False


def arm_specs(arms: object) -> list[ArmSpec]:
    """Read the arms from a list of names or a mapping; each item of a list value makes an arm.

    Raises:
        ConfigError: a name is no folder name or stands twice, or an arm has no reducer.
    """
    named: list[tuple[object, object]] = []
    if isinstance(arms, Mapping):
        named = list(arms.items())
    elif isinstance(arms, Sequence) and not isinstance(arms, str):
        named = [(name, {}) for name in arms]
    specs = [spec for name, settings in named for spec in _specs(str(name), settings)]
    if not specs:
        raise ConfigError(f"arms: {arms!r} is neither a list of reducers nor a mapping of names to settings")
    names = [spec.name for spec in specs]
    for name in names:
        if not _NAME.fullmatch(name) or names.count(name) > 1:
            raise ConfigError(f"arms: {name!r} stands twice or cannot name a folder")
    return specs


def _specs(name: str, settings: object) -> list[ArmSpec]:
    if not isinstance(settings, Mapping):
        raise ConfigError(
            f"arms.{name}: {settings!r} is no mapping, as in {{reducer: trim, aggregate: false}}"
        )
    single = {str(key): value for key, value in settings.items() if not isinstance(value, list)}
    several = {str(key): value for key, value in settings.items() if isinstance(value, list)}
    specs = []
    for values in product(*several.values()):
        point = dict(zip(several, values, strict=True))
        suffix = "".join(f"-{key}={value}" for key, value in point.items())
        specs.append(_spec(name + suffix, name, {**single, **point}))
    return specs


def _spec(name: str, stem: str, settings: Tree) -> ArmSpec:
    """Make one arm; `stem` is its name without the values of a grid."""
    parts = {key: settings[key] for key in _PARTS if key in settings}
    for key, part in parts.items():
        if not isinstance(part, Mapping | str) or (isinstance(part, str) and key not in _OPTIONS):
            option = f" or an option of {key}" if key in _OPTIONS else ""
            raise ConfigError(f"arms.{name}.{key}: {part!r} is no mapping of fields{option}")
    is_control = stem == CONTROL and "reducer" not in settings
    budget_of = settings.get("budget_of")
    return ArmSpec(
        name,
        reducer=settings.get("reducer", "full" if is_control else stem),
        fields={key: value for key, value in settings.items() if key not in _NOT_OF_REDUCER},
        parts=parts,
        budget_of=None if budget_of is None else str(budget_of),
        other_batches=is_control,
    )


def compose_arm(spec: ArmSpec) -> DictConfig:
    """Compose the command's configuration with the arm's reducer, engine, model and CLIP text.

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


def reducer_options() -> list[str]:
    """List the options of the group `reducer`, including those of the user's --config-dir."""
    return _options("reducer")


def _options(group: str) -> list[str]:
    from hydra.core.global_hydra import GlobalHydra

    return sorted(GlobalHydra.instance().config_loader().get_group_options(group))


def make_reducer(name: str, overrides: Tree | None = None) -> "tuple[Reducer, Tree]":
    """Build a reducer and its settings as data, composed as if `reducer=name` had been given.

    `overrides` are fields of that reducer. Everything else, such as `model.trim_sign`, is the command's own.

    Raises:
        ConfigError: there is no such option or field, or a value is refused.
    """
    config = compose_arm(ArmSpec(name, name, overrides or {}))
    return build_target(config, "reducer"), shown_settings(config.reducer)


def _composed(chosen: dict[str, str]) -> DictConfig:
    from hydra import compose
    from hydra.core.hydra_config import HydraConfig

    for group, name in chosen.items():
        if name not in _options(group):
            raise ConfigError(f"there is no {group} {name!r}; there is: {', '.join(_options(group))}")
    hydra = HydraConfig.get()
    replaced = tuple(f"{group}{mark}" for group in chosen for mark in ("=", "."))
    kept = [item for item in hydra.overrides.task if not item.lstrip("+~").startswith(replaced)]
    return compose(hydra.job.config_name, [*kept, *(f"{group}={name}" for group, name in chosen.items())])
