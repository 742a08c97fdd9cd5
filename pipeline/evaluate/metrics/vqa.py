"""Accuracy against ten annotators: VQA (arXiv 1505.00468), TextVQA (1904.08920), VizWiz (1802.08218)."""

from collections.abc import Sequence

import numpy as np

from pipeline.evaluate.base import UNANSWERABLE, Figures, Metric, Reference, f1, rates, ratio
from pipeline.evaluate.metrics.text import evalai_normal, one_line, vqa_normal


def leave_one_out(matches: int, annotators: int) -> float:
    """The mean over the annotators of min(1, n / 3), n of the *others* having given the answer."""
    if not annotators:
        return 0.0
    of_others = matches * min(1.0, (matches - 1) / 3) if matches else 0.0
    return (of_others + (annotators - matches) * min(1.0, matches / 3)) / annotators


def vqa_accuracy(prediction: str, answers: Sequence[str]) -> float:
    """vqaEval.py's rule: where all annotators agree to the letter, nothing is normalised, not even case."""
    given = [one_line(answer) for answer in answers]
    predicted = one_line(prediction)
    if len(set(given)) > 1:
        given = [vqa_normal(answer) for answer in given]
        predicted = vqa_normal(predicted)
    return leave_one_out(given.count(predicted), len(given))


def textvqa_accuracy(prediction: str, answers: Sequence[str]) -> float:
    """TextVQA's rule (m4c_evaluator.py): all answers go through EvalAI's processor."""
    given = [evalai_normal(answer) for answer in answers]
    return leave_one_out(given.count(evalai_normal(prediction)), len(given))


def vizwiz_accuracy(prediction: str, answers: Sequence[str]) -> float:
    """VizWiz's rule: the prediction is normalised, the annotators' answers are taken as they are."""
    return leave_one_out(list(answers).count(vqa_normal(prediction)), len(answers))


def vqa() -> Metric:
    """VQAv2: predictions as LLaVA submits them (EvalAI's processor), then VQA's own rule."""

    def observe(prediction: str | None, reference: Reference) -> tuple[float, ...]:
        if prediction is None:
            return (0.0,)
        return (vqa_accuracy(evalai_normal(prediction), reference.answers),)

    return Metric(observe, rates("accuracy"))


def textvqa() -> Metric:
    """TextVQA."""

    def observe(prediction: str | None, reference: Reference) -> tuple[float, ...]:
        return (0.0 if prediction is None else textvqa_accuracy(prediction, reference.answers),)

    return Metric(observe, rates("accuracy"))


def vizwiz() -> Metric:
    """VizWiz: accuracy, and how well "unanswerable" is said where it is true."""

    def observe(prediction: str | None, reference: Reference) -> tuple[float, ...]:
        unanswerable = UNANSWERABLE in reference.groups
        if prediction is None:
            return 0.0, 0.0, 0.0, float(unanswerable)
        submitted = evalai_normal(prediction)
        said = vqa_normal(submitted) == UNANSWERABLE
        right = vizwiz_accuracy(submitted, reference.answers)
        return right, float(said and unanswerable), float(said), float(unanswerable)

    return Metric(observe, _vizwiz_figures)


def _vizwiz_figures(sums: np.ndarray) -> Figures:
    accuracy, hits, said, true, count = sums
    precision, recall = ratio(hits, said), ratio(hits, true)
    return {
        "accuracy": ratio(accuracy, count),
        "unanswerable_precision": precision,
        "unanswerable_recall": recall,
        "unanswerable_f1": f1(precision, recall) if true else float("nan"),
    }
