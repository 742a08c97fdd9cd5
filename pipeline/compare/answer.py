"""The same requests under several arms, in one job."""

from collections.abc import Sequence

from pipeline.errors import ConfigError
from pipeline.prepare import prepare_all
from pipeline.run import Outcome, RunConfig, finish
from pipeline.storage import canonical


def answer(groups: Sequence[RunConfig]) -> dict[str, tuple[str, Outcome]]:
    """Make what is missing of every arm's output: its URI and how it ended, by the arms' names.

    The arms of a group share model and engine, take turns unit by unit, and share what is decoded and
    encoded; groups run one after the other.

    Raises:
        ConfigError: anything is wrong with a configuration or an output; before Ray starts.
        RunError: a run could not be finished.
    """
    _require_own_folder(groups[0])
    prepared = prepare_all(groups)
    ended: dict[str, tuple[str, Outcome]] = {}
    for group, states in zip(groups, prepared, strict=True):
        outcomes = finish(group, states)
        for state, outcome in zip(states.states, outcomes, strict=True):
            ended[state.arm.name] = (state.folder, outcome)
    return ended


def _require_own_folder(config: RunConfig) -> None:
    output = canonical(config.options.output, config.storage)
    with config.storage.reaching("output", output):
        fs, folder = config.storage.open(output)
        taken = fs.exists(f"{folder}/run.json")
    if taken:
        raise ConfigError(
            f"output {config.storage.redact(output)} holds a run of annotate, and a comparison's arms lie in "
            "folders of their own: choose another output"
        )
