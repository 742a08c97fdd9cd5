"""Runs `trimline compare`: answers the same requests under several arms and compares the answers."""

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, ListConfig, OmegaConf

from jobs.common.arms import ArmSpec, arm_specs, compose_arm
from jobs.common.build import build, build_target
from jobs.common.configs import make_config
from jobs.common.credentials import shown_settings
from jobs.main import run_as_script
from pipeline.support.errors import ConfigError
from pipeline.support.fields import free, require
from pipeline.support.plain_text import printable, printable_lines

if TYPE_CHECKING:
    from pipeline.run.config import Outcome, RunConfig


DEFAULT = ("full", "trim")


@dataclass(frozen=True, kw_only=True)
class Comparing:
    """Holds the keys below `compare`."""

    baseline: str | None = free(None)
    resamples: int = free(1000)
    gallery: int = free(200)

    def __post_init__(self) -> None:
        require(self.resamples >= 0, "compare.resamples must not be negative")
        require(self.gallery >= 0, "compare.gallery must not be negative")


def run(config: DictConfig) -> int:
    """Answer under every arm, compare, report; returns the exit status."""
    from jobs.common.submit import submit
    from pipeline.compare.compare import compare_outputs
    from pipeline.compare.terminal import comparison_tables, summary_text
    from pipeline.report.write import write_report_files
    from pipeline.run.annotate import answer
    from pipeline.support.table import show

    options = build(config, "compare", Comparing)
    specs = arm_specs(_arms(config))
    if len(specs) < 2:
        raise ConfigError(f"arms: {specs[0].name!r} alone has nothing to be compared with")
    baseline = _baseline(specs, options.baseline)
    pricing = None if config.get("pricing") is None else build_target(config, "pricing")
    base = make_config(config)
    if base.cluster.submit:
        return submit("compare", HydraConfig.get().overrides.task, base)
    outcomes = answer(_groups(base, specs))
    if base.options.slice is not None:  # a last run without slice compares
        return _tell(base, outcomes)
    comparison = compare_outputs(
        {spec.name: outcomes[spec.name][0] for spec in specs},
        place=base.options.output,
        storage=base.storage,
        reading=base.source_storage,
        baseline=baseline,
        pricing=pricing,
        dataset=None if config.get("dataset") is None else build_target(config, "dataset"),
        resamples=options.resamples,
        seed=base.options.seed,
    )
    for table in comparison_tables(comparison):
        show(table)
    print(f"\n{printable_lines(base.storage.hide(summary_text(comparison)))}")
    status = _tell(base, outcomes)
    for path in write_report_files(
        base.options.output,
        base.storage,
        base.source_storage,
        gallery=options.gallery,
        seed=base.options.seed,
    ):
        print(printable(base.storage.hide(path)))
    return status


def _tell(base: "RunConfig", outcomes: "dict[str, tuple[str, Outcome]]") -> int:
    """Print how the arms have ended; returns the exit status."""
    from jobs.common.outcome import worst_status

    for name, (_, outcome) in outcomes.items():
        for text in (*outcome.notes, outcome.message):
            print(printable(base.storage.hide(f"{name}: {text}")))
    return worst_status(outcome for _, outcome in outcomes.values())


def _arms(config: DictConfig) -> object:
    """Return the key `arms` as plain data, or the default arms."""
    arms = config.arms
    if isinstance(arms, DictConfig | ListConfig):
        return OmegaConf.to_container(arms, resolve=True)
    return list(DEFAULT) if arms is None else arms


def _baseline(specs: list[ArmSpec], name: str | None) -> str:
    names = [spec.name for spec in specs]
    if name is None:
        return "full" if "full" in names else names[0]
    if name not in names:
        raise ConfigError(f"compare.baseline: {name!r} is none of the arms {names}")
    return name


def _groups(base: "RunConfig", specs: list[ArmSpec]) -> list["RunConfig"]:
    """Group the arms into runs that share model and engine, in the order of their first arms."""
    groups: list[RunConfig] = []
    for spec in specs:
        try:
            single = _single_arm(base, spec, tells=not groups)
        except ConfigError as error:
            raise ConfigError(f"arms: {spec.name}: {error}") from None
        for number, group in enumerate(groups):
            if _without_arms(group) == _without_arms(single):
                groups[number] = dataclasses.replace(group, arms=(*group.arms, *single.arms))
                break
        else:
            groups.append(single)
    return groups


def _without_arms(config: "RunConfig") -> "RunConfig":
    return dataclasses.replace(config, arms=(), settings={})


def _single_arm(base: "RunConfig", spec: ArmSpec, *, tells: bool) -> "RunConfig":
    """Make the run of one arm alone."""
    from pipeline.models.config import Model
    from pipeline.run.settle import settle
    from pipeline.stages.arms import Arm
    from pipeline.stages.clip_text import ClipText

    config = compose_arm(spec)
    single = dataclasses.replace(
        base,
        model=build(config, "model", Model),
        engine=build_target(config, "engine"),
        arms=(
            Arm(
                spec.name,
                build_target(config, "reducer"),
                shown_settings(config.reducer),
                folder=spec.name,
                budget_of=spec.budget_of,
                clip_text=build(config, "clip_text", ClipText) if "clip_text" in spec.parts else None,
            ),
        ),
        settings=base.settings | {part: shown_settings(config[part]) for part in ("model", "engine")},
    )
    # one engine serves all arms of a group, some of which share an image's tokens among its questions
    return settle(single, shares_images=True, other_batches=spec.other_batches, tells=tells)


if __name__ == "__main__":
    run_as_script(__file__)
