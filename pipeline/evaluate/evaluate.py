"""Writes `evaluation.json` of an output: figures with intervals, and the number of unanswered rows."""

from collections.abc import Iterator
from dataclasses import dataclass

from pipeline.evaluate.base import Answered, Dataset, Metric, Reference
from pipeline.evaluate.join import Join, choose_join, read_rows
from pipeline.evaluate.score_intervals import ScoresJson, scores_of
from pipeline.evaluate.tally import MAX_NEW_TOKENS, Tally, cut_off_note
from pipeline.output.layout import EVALUATION
from pipeline.output.opened import Output, open_output
from pipeline.storage.uris import Storage, write_atomic
from pipeline.support.errors import ConfigError
from pipeline.support.fields import free, require
from pipeline.support.intervals import Interval
from pipeline.support.table import Table


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Configures the output to score and the files to write.

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


class EvaluationJson(ScoresJson, total=False):
    """Declares the content of evaluation.json.

    `cut_off` counts the answers that the run's `max_new_tokens` ended.
    """

    dataset: str
    root: str
    output: str
    run_id: str
    fingerprint: str
    questions: int
    status: dict[str, int]
    without_truth: int
    cut_off: int
    max_new_tokens: int | None
    published_max_new_tokens: int


def evaluate(
    dataset: Dataset, options: Evaluation, storage: Storage, reading: Storage | None = None
) -> EvaluationJson:
    """Score an output; writes evaluation.json and, if asked for, the submission.

    Args:
        storage, reading: how to reach the output and the dataset; None: both the same way.

    Returns:
        The content of evaluation.json; its `figures` are empty if the answers are not public or need a judge.

    Raises:
        ConfigError: the output is not finished, an official file is missing or damaged, or rows and
            references do not match one to one.
    """
    output = open_output(options.output, storage).require_finished()
    references = list(dataset.references(reading or storage))
    if not references:
        raise ConfigError(f"dataset: no question in {storage.redact(dataset.root)}")
    join = choose_join(references, dataset.joint, output)
    if options.submission is not None:
        _submit(dataset, join, options, output, reading or storage)
        join.seen.clear()
    metric = dataset.metric(references) if any(reference.answers for reference in references) else None
    if metric is None and options.submission is None:
        raise ConfigError(
            f"dataset: the answers in {storage.redact(dataset.root)} are not public or need a judge: "
            + (
                f"submission=FILE writes the predictions as {dataset.submits}"
                if dataset.submits
                else f"nothing can be scored, and {type(dataset).__name__} has no submission format"
            )
        )
    tally = Tally(metric or _no_metric())
    for row, reference in _matched_rows(join, output, options.partial):
        tally.add(row, reference)
    scores: ScoresJson = {"figures": {}, "groups": {}}
    if metric:
        scores = scores_of(metric, tally, resamples=options.resamples, seed=options.seed)
    evaluation: EvaluationJson = {
        "dataset": type(dataset).__name__,
        "root": storage.redact(dataset.root),
        "output": storage.redact(options.output),
        "run_id": output.manifest.run_id,
        "fingerprint": output.manifest.fingerprint,
        "questions": len(join.references),
        "status": dict(sorted(tally.status.items())),
        "without_truth": tally.without_truth,
        "cut_off": tally.cut_off,
        "max_new_tokens": output.manifest.counted.get(MAX_NEW_TOKENS),
        "published_max_new_tokens": dataset.max_new_tokens,
        **scores,
    }
    _write(options.json or f"{options.output.rstrip('/')}/{EVALUATION}", evaluation, storage)
    return evaluation


def _no_metric() -> Metric:
    return Metric(lambda prediction, reference: (), lambda sums: {})


def _matched_rows(join: Join, output: Output, partial: bool) -> Iterator[tuple[Answered, Reference]]:
    for row in read_rows(output):
        yield row, join.match(row)
    if not partial:
        join.require_all(output)


def _submit(dataset: Dataset, join: Join, options: Evaluation, output: Output, reading: Storage) -> None:
    uri = str(options.submission)
    if not dataset.submits:
        raise ConfigError(f"submission: {type(dataset).__name__} has no submission format")
    rows = join.in_order(row for row, _ in _matched_rows(join, output, options.partial))
    content = dataset.submission(rows, reading)
    with output.storage.reaching("submission", uri):
        write_atomic(*output.storage.open(uri), content)


def _write(uri: str, evaluation: EvaluationJson, storage: Storage) -> None:
    with storage.reaching("json", uri):
        fs, path = storage.open(uri)
        write_atomic(fs, path, storage.as_json(evaluation, indent=2).encode())


def evaluation_table(evaluation: EvaluationJson) -> Table:
    """List the figures of an evaluation, one line each, those of the groups below."""
    rows = [_line(name, figure, evaluation["units"]) for name, figure in evaluation["figures"].items()]
    for group, scores in evaluation["groups"].items():
        rows += [
            _line(f"{group}: {name}", figure, scores["units"]) for name, figure in scores["figures"].items()
        ]
    title = f"{evaluation['dataset']}: {evaluation['scored']:,} requests"
    notes = (*evaluation_notes(evaluation), *evaluation["notes"])
    return Table(title, ("", "value", "95 % from", "to", "of"), rows, notes)


def evaluation_notes(evaluation: EvaluationJson) -> list[str]:
    """Say what the rows of an output lack: answers, their ends, known truth, questions."""
    judged = "counted as wrong" if evaluation["figures"] else "without an answer"
    failed = {status: count for status, count in evaluation["status"].items() if status != "ok"}
    notes = [f"{count:,} rows {status}: {judged}" for status, count in failed.items()]
    if evaluation["cut_off"]:
        notes.append(
            cut_off_note(
                evaluation["cut_off"], evaluation["max_new_tokens"], evaluation["published_max_new_tokens"]
            )
        )
    if evaluation["without_truth"] and evaluation["figures"]:
        notes.append(f"{evaluation['without_truth']:,} rows have no known answer and are not scored")
    answered = sum(evaluation["status"].values())
    if answered < evaluation["questions"]:
        notes.append(f"a part of the dataset: {answered:,} of {evaluation['questions']:,} questions")
    return notes


def _line(name: str, figure: Interval, units: int) -> tuple[object, ...]:
    return name, figure["value"], figure.get("low", ""), figure.get("high", ""), units
