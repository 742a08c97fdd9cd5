"""Runs `trimline status`: prints how far a run is, from its output alone."""

from omegaconf import DictConfig

from jobs.common.build import build, build_top
from jobs.main import run_as_script


def run(config: DictConfig) -> int:
    """Read the output and print its state; returns the exit status, whatever that of the run is."""
    from pipeline.status.status import Look, as_json, look
    from pipeline.status.terminal import lines
    from pipeline.storage.uris import Storage
    from pipeline.support.plain_text import printable

    options = build_top(config, Look, ("storage",))
    storage = build(config, "storage", Storage)
    states = look(options, storage)
    if options.json == "-":
        print(as_json(states, storage))
        return 0
    for state in states:
        if len(states) > 1:
            print(printable(storage.redact(f"{state.output}:")))
        for line in lines(state):
            print(printable(storage.hide(line)))
    return 0


if __name__ == "__main__":
    run_as_script(__file__)
