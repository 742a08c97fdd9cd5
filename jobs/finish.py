"""Runs `trimline finish`: concludes an output whose slices have all ended, without Ray and models."""

from omegaconf import DictConfig

from jobs.common.build import build, build_top
from jobs.main import run_as_script


def run(config: DictConfig) -> int:
    """Write summary.json, the card and _SUCCESS; returns the exit status that the run would have."""
    from jobs.common.outcome import show_outcome, worst_status
    from pipeline.run.finish import Finishing, finish_outputs
    from pipeline.storage.uris import Storage

    options = build_top(config, Finishing, ("storage",))
    storage = build(config, "storage", Storage)
    outcomes = []
    for folder, outcome in finish_outputs(options, storage):
        show_outcome(outcome, storage.hide(folder))
        outcomes.append(outcome)
    return worst_status(outcomes)


if __name__ == "__main__":
    run_as_script(__file__)
