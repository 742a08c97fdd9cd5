"""Computes accuracy against annotators: VQA (arXiv 1505.00468), TextVQA (1904.08920), VizWiz (1802.08218)."""

from collections.abc import Sequence

from pipeline.evaluate.base import UNANSWERABLE, Figures, Metric, Numbers, Reference, f1, rates, ratio
from pipeline.evaluate.metrics.text import evalai_normal, one_line, vqa_normal

VQA_NOTES = (
    "By vqaEval.py, where all ten annotators agree their answer is not normalised, but predictions are: "
    '"t-shirt", "two" or "a cat" of all ten is never matched.',
)


def leave_one_out(matches: int, annotators: int) -> float:
    """Average min(1, n / 3) over the annotators, n being how many of the *others* gave the answer."""
    if not annotators:
        return 0.0
    of_others = matches * min(1.0, (matches - 1) / 3) if matches else 0.0
    return (of_others + (annotators - matches) * min(1.0, matches / 3)) / annotators


def vqa_accuracy(prediction: str, answers: Sequence[str]) -> float:
    """Score by vqaEval.py: normalises nothing, not even case, if all annotators agree exactly."""
    true = [one_line(answer) for answer in answers]
    predicted = one_line(prediction)
    if len(set(true)) > 1:
        true = [vqa_normal(answer) for answer in true]
        predicted = vqa_normal(predicted)
    return leave_one_out(true.count(predicted), len(true))


def textvqa_accuracy(prediction: str, answers: Sequence[str]) -> float:
    """Score by TextVQA's m4c_evaluator.py: EvalAI's processor normalises all answers."""
    true = [evalai_normal(answer) for answer in answers]
    return leave_one_out(true.count(evalai_normal(prediction)), len(true))


def vizwiz_accuracy(prediction: str, answers: Sequence[str]) -> float:
    """Score by VizWiz's rule: normalises the prediction, but not the annotators' answers.

    VizWiz's own table of contractions has curly apostrophes. Behind EvalAI's processor, which comes first in
    `vizwiz`, they make no difference.
    """
    return leave_one_out(list(answers).count(vqa_normal(prediction)), len(answers))


def vqa() -> Metric:
    """Score VQAv2: EvalAI's processor on predictions, as LLaVA submits them, then VQA's own rule."""

    def observe(prediction: str | None, reference: Reference) -> tuple[float, ...]:
        if prediction is None:
            return (0.0,)
        return (vqa_accuracy(evalai_normal(prediction), reference.answers),)

    return Metric(observe, rates("accuracy"), notes=VQA_NOTES)


def textvqa() -> Metric:
    """Score TextVQA."""

    def observe(prediction: str | None, reference: Reference) -> tuple[float, ...]:
        return (0.0 if prediction is None else textvqa_accuracy(prediction, reference.answers),)

    return Metric(observe, rates("accuracy"))


def vizwiz() -> Metric:
    """Score VizWiz: accuracy, and precision, recall and F1 of "unanswerable"."""

    def observe(prediction: str | None, reference: Reference) -> tuple[float, ...]:
        unanswerable = UNANSWERABLE in reference.groups
        if prediction is None:
            return 0.0, 0.0, 0.0, float(unanswerable)
        submitted = evalai_normal(prediction)
        said = vqa_normal(submitted) == UNANSWERABLE
        right = vizwiz_accuracy(submitted, reference.answers)
        return right, float(said and unanswerable), float(said), float(unanswerable)

    return Metric(observe, _vizwiz_figures)


def _vizwiz_figures(sums: Numbers) -> Figures:
    accuracy, hits, said, true, count = sums
    precision, recall = ratio(hits, said), ratio(hits, true)
    return {
        "accuracy": ratio(accuracy, count),
        "unanswerable_precision": precision,
        "unanswerable_recall": recall,
        "unanswerable_f1": f1(precision, recall) if true else float("nan"),
    }
