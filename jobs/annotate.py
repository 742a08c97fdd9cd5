"""Runs `trimline annotate`: answers every question about every image of a source."""

import dataclasses
import re
from typing import TYPE_CHECKING

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from jobs.common.configs import make_config
from jobs.main import run_as_script
from pipeline.support.plain_text import printable

if TYPE_CHECKING:
    from pipeline.run.config import RunConfig

_REDUCER_OVERRIDE = re.compile(r"[+~]*reducer[=.]")


def run(config: DictConfig) -> int:
    """Run the job; returns the exit status."""
    from jobs.common.outcome import show_outcome
    from jobs.common.submit import submit
    from pipeline.run.annotate import annotate
    from pipeline.run.pinning import pin_model
    from pipeline.run.settle import settle

    run_config = make_config(config)
    if not run_config.cluster.submit:  # else the job on the cluster does it
        run_config = pin_model(run_config)
    run_config = _with_tuned_reducer(run_config)
    if run_config.cluster.submit:
        return submit("annotate", HydraConfig.get().overrides.task, run_config)
    run_config = settle(run_config)
    outcome = annotate(run_config)
    show_outcome(outcome, run_config.options.output)
    return outcome.status


def _with_tuned_reducer(config: "RunConfig") -> "RunConfig":
    """Use the reducer that the checkpoint's config names, unless the command line gives one."""
    from jobs.common.arms import make_reducer
    from pipeline.models.checkpoints.tuned_reducer import require_counterpart, tuned_with
    from pipeline.stages.arms import Arm

    tuned = tuned_with(config.model)
    if tuned is None:
        return config
    tuned_name, fields = tuned
    (arm,) = config.arms
    if any(_REDUCER_OVERRIDE.match(item) for item in HydraConfig.get().overrides.task):
        if fields is None or any(arm.settings.get(name, "") != value for name, value in fields.items()):
            text = f"reducer={arm.name} as given, though {config.model.path} was tuned with {tuned_name}"
            print(printable(f"note: {text}"))
        return config
    reducer, settings = make_reducer("trim", require_counterpart(tuned_name, fields))
    print(printable(f"reducer=trim with {tuned_name}, as {config.model.path} was tuned"))
    return dataclasses.replace(config, arms=(Arm("trim", reducer, settings),))


if __name__ == "__main__":
    run_as_script(__file__)
