"""`trimline evaluate`: scores of a finished output by the rules of a dataset."""

from omegaconf import DictConfig

from jobs.common.build import build, build_fields, plain

_GROUPS = ("dataset", "storage")


def run(config: DictConfig) -> int:
    """Score, print and write the figures; returns the exit status."""
    from pipeline.evaluate.evaluate import Evaluation, evaluate, evaluation_table
    from pipeline.output.layout import EVALUATION
    from pipeline.storage.uris import Storage
    from pipeline.support.table import show

    own = {name: value for name, value in plain(config).items() if name not in _GROUPS}
    options: Evaluation = build_fields(own, Evaluation, "")
    storage: Storage = build(config, "storage", Storage)
    found = evaluate(build(config, "dataset"), options, storage)
    if found["figures"]:
        show(evaluation_table(found))
    for place in (options.submission, options.json or f"{options.output.rstrip('/')}/{EVALUATION}"):
        if place:
            print(storage.redact(place))
    return 0


if __name__ == "__main__":
    import sys

    from jobs.common.entry import command_line

    sys.exit(command_line("evaluate", sys.argv[1:]))
