"""Runs `trimline evaluate`: scores a finished output by the rules of a dataset."""

from omegaconf import DictConfig

from jobs.common.build import build, build_target, build_top
from jobs.common.storages import source_storage
from jobs.main import run_as_script

_GROUPS = ("dataset", "storage", "source_storage")


def run(config: DictConfig) -> int:
    """Score, print and write the figures; returns the exit status."""
    from pipeline.evaluate.evaluate import Evaluation, evaluate, evaluation_notes, evaluation_table
    from pipeline.output.layout import EVALUATION
    from pipeline.storage.uris import Storage
    from pipeline.support.plain_text import printable
    from pipeline.support.table import show

    options = build_top(config, Evaluation, _GROUPS)
    storage = build(config, "storage", Storage)
    figures = evaluate(build_target(config, "dataset"), options, storage, source_storage(config, storage))
    if figures["figures"]:
        show(evaluation_table(figures))
    else:
        for note in evaluation_notes(figures):
            print(note)
    for place in (options.submission, options.json or f"{options.output.rstrip('/')}/{EVALUATION}"):
        if place:
            print(printable(storage.redact(place)))
    return 0


if __name__ == "__main__":
    run_as_script(__file__)
