"""Reducers by the names of their options, beside the one that a command line chose."""

from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from jobs.build import build

if TYPE_CHECKING:
    from trim import Reducer


def reducer_names() -> list[str]:
    """Every option of the group `reducer`, those of the user's own --config-dir among them."""
    from hydra.core.global_hydra import GlobalHydra

    return sorted(GlobalHydra.instance().config_loader().get_group_options("reducer"))


def make_reducer(name: str, overrides: dict[str, Any] | None = None) -> "tuple[Reducer, dict[str, Any]]":
    """A reducer and its settings as data, composed as if `reducer=name` had been given.

    `overrides` are fields of that reducer. Everything else, such as `model.trim_sign`, is the command's own.

    Raises:
        ConfigError: there is no such option or field, or a value is refused.
    """
    from hydra import compose
    from hydra.core.hydra_config import HydraConfig

    hydra = HydraConfig.get()
    given = [
        item for item in hydra.overrides.task if not item.lstrip("+~").startswith(("reducer=", "reducer."))
    ]
    config: DictConfig = compose(hydra.job.config_name, [*given, f"reducer={name}"])
    if overrides:
        OmegaConf.set_struct(config.reducer, True)
        config.reducer = OmegaConf.merge(config.reducer, overrides)
    settings = OmegaConf.to_container(config.reducer, resolve=True)
    assert isinstance(settings, dict)
    return build(config, "reducer"), {str(key): value for key, value in settings.items()}
