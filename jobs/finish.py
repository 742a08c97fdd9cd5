"""Runs `trimline finish`: concludes an output whose slices have all ended, without Ray and models."""

from omegaconf import DictConfig

from jobs.common.build import build, build_top
from jobs.main import run_as_script


def run(config: DictConfig) -> int:
    """Write summary.json, the card and _SUCCESS; returns the exit status that the run would have."""
    from jobs.common.outcome import show_outcome
    from pipeline.run.finish import Finishing, finish_outputs
    from pipeline.storage.uris import Storage

    options = build_top(config, Finishing, ("storage",))
    storage = build(config, "storage", Storage)
    statuses = []
    for folder, outcome in finish_outputs(options, storage):
        show_outcome(outcome, storage.hide(folder))
        statuses.append(outcome.status)
    return 1 if 1 in statuses else max(statuses)


if __name__ == "__main__":
    run_as_script(__file__)
