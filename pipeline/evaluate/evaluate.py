"""`evaluation.json` of an output: figures with their intervals, and what was not answered."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pipeline.evaluate.base import Answered, Dataset, Metric, Reference
from pipeline.evaluate.join import Join, choose_join, read_rows
from pipeline.evaluate.score_intervals import figures_of
from pipeline.evaluate.tally import Kept
from pipeline.output.layout import EVALUATION
from pipeline.output.opened import Output, open_output
from pipeline.storage.uris import Storage, write_atomic
from pipeline.support.errors import ConfigError
from pipeline.support.fields import free, require
from pipeline.support.table import Table


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What is scored, and where the figures go.

    Args:
        output: of `annotate`, finished.
        json: a file or URI; None: `evaluation.json` in the output.
        submission: a file or URI for the answers in the dataset's submission format; None: none is written.
        partial: score an output that holds a part of the dataset, as after `limit=100`.
        resamples, seed: of the bootstrap.
    """

    output: str = free()
    json: str | None = free(None)
    submission: str | None = free(None)
    partial: bool = free(False)
    resamples: int = free(1000)
    seed: int = free(0)

    def __post_init__(self) -> None:
        require(self.resamples >= 0, "resamples must not be negative")
        require(self.seed >= 0, "seed must not be negative")


def evaluate(dataset: Dataset, options: Evaluation, storage: Storage) -> dict[str, Any]:
    """Score an output and write what was asked for.

    Returns:
        The content of evaluation.json; its `figures` are empty if the answers are not public or need a judge.

    Raises:
        ConfigError: the output is not finished, an official file is missing or damaged, or rows and
            references do not meet one to one.
    """
    output = open_output(options.output, storage).require_finished()
    references = list(dataset.references(storage))
    if not references:
        raise ConfigError(f"dataset: no question in {storage.redact(dataset.root)}")
    join = choose_join(references, dataset.joint, output)
    if options.submission is not None:
        _submit(dataset, join, output, options)
        join.seen.clear()
    metric = dataset.metric(references) if any(reference.answers for reference in references) else None
    if metric is None and options.submission is None:
        raise ConfigError(
            f"dataset: the answers in {storage.redact(dataset.root)} are not public or need a judge: "
            "submission=FILE writes the predictions in the official format"
        )
    kept = Kept(metric or _nothing())
    for row, reference in _met(join, output, options.partial):
        kept.add(row, reference)
    found = {
        "dataset": type(dataset).__name__,
        "root": storage.redact(dataset.root),
        "output": storage.redact(options.output),
        **{name: getattr(output.manifest, name) for name in ("run_id", "fingerprint")},
        "questions": len(join.references),
        "status": dict(sorted(kept.status.items())),
        "without_truth": kept.without_truth,
        **(
            figures_of(metric, kept, resamples=options.resamples, seed=options.seed)
            if metric
            else {"figures": {}, "groups": {}}
        ),
    }
    _write(options.json or f"{options.output.rstrip('/')}/{EVALUATION}", found, storage)
    return found


def _nothing() -> Metric:
    return Metric(lambda prediction, reference: (), lambda sums: {})


def _met(join: Join, output: Output, partial: bool) -> Iterator[tuple[Answered, Reference]]:
    for row in read_rows(output):
        yield row, join.match(row)
    if not partial:
        join.require_all()


def _submit(dataset: Dataset, join: Join, output: Output, options: Evaluation) -> None:
    rows = (row for row, _ in _met(join, output, options.partial))
    text = "".join(dataset.submission(rows))
    assert options.submission is not None
    storage = output.storage
    with storage.reaching("submission", options.submission):
        write_atomic(*storage.open(options.submission), text.encode())


def _write(place: str, found: dict[str, Any], storage: Storage) -> None:
    with storage.reaching("json", place):
        fs, path = storage.open(place)
        write_atomic(fs, path, storage.hide(json.dumps(found, indent=2)).encode())


def table(found: dict[str, Any]) -> Table:
    """The figures of an evaluation for people: one line a figure, those of the groups below."""
    rows = [_line(name, figure, found["units"]) for name, figure in found["figures"].items()]
    for group, told in found["groups"].items():
        rows += [_line(f"{group}: {name}", figure, told["units"]) for name, figure in told["figures"].items()]
    lost = {status: count for status, count in found["status"].items() if status != "ok"}
    notes = [f"{count:,} rows {status}: counted as wrong" for status, count in lost.items()]
    if found["without_truth"]:
        notes.append(f"{found['without_truth']:,} rows have no known answer and are not scored")
    answered = sum(found["status"].values())
    if answered < found["questions"]:
        notes.append(f"a part of the dataset: {answered:,} of {found['questions']:,} questions")
    title = f"{found['dataset']}: {found['scored']:,} requests"
    return Table(title, ("", "value", "95 % from", "to", "of"), rows, (*notes, *found["notes"]))


def _line(name: str, figure: dict[str, float], units: int) -> tuple[Any, ...]:
    return name, figure["value"], figure.get("low", ""), figure.get("high", ""), units
