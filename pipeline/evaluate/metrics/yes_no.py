"""Scores yes or no: POPE (arXiv 2305.10355) by eval_pope.py, MME (2306.13394) by calculation.py."""

from collections.abc import Mapping
from statistics import fmean

from pipeline.evaluate.base import Figures, Metric, Numbers, Reference, f1, ratio

_NOES = ("No", "not", "no")
PERCEPTION = (
    *("existence", "count", "position", "color", "posters"),
    *("celebrity", "scene", "landmark", "artwork", "OCR"),
)
COGNITION = ("commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning")


def pope_says(prediction: str) -> str:
    """Return `no` if No, not or no is among the words of the first sentence, otherwise `yes`.

    The sentence ends at the first period, commas are removed, and single blanks separate words.
    """
    words = prediction.strip().split(".")[0].replace(",", "").split(" ")
    return "no" if any(word in words for word in _NOES) else "yes"


def mme_says(prediction: str) -> str:
    """Return `yes`, `no` or `other`, from the first four characters in lower case."""
    start = prediction.strip().lower()[:4]
    return "yes" if "yes" in start else "no" if "no" in start else "other"


def pope() -> Metric:
    """Score POPE: accuracy, precision, recall and F1 of "yes", and the share of predictions that say it.

    A row without a prediction says neither: it lowers the accuracy and, where the answer is yes, the recall.
    """

    def observe(prediction: str | None, reference: Reference) -> tuple[float, ...]:
        said = None if prediction is None else pope_says(prediction)
        true = reference.answers[0]
        return float(said == true), float(said == true == "yes"), float(said == "yes"), float(true == "yes")

    return Metric(observe, _pope_figures, summary=_pope_summary)


def _pope_figures(sums: Numbers) -> Figures:
    right, hits, said, true, count = sums
    precision, recall = ratio(hits, said), ratio(hits, true)
    return {
        "accuracy": ratio(right, count),
        "precision": precision,
        "recall": recall,
        "f1": f1(precision, recall),
        "yes_ratio": ratio(said, count),
    }


def _pope_summary(groups: Mapping[str, Figures]) -> Figures:
    """Average F1 over the kinds of negatives, as papers report it."""
    return {"f1_mean_of_categories": fmean(figures["f1"] for figures in groups.values())} if groups else {}


def mme() -> Metric:
    """Score MME by subtask: accuracy over questions, accuracy+ over images with both questions right.

    A subtask's score is 100 times their sum; `perception` and `cognition` are sums of their subtasks' scores.
    """

    def observe(prediction: str | None, reference: Reference) -> tuple[float, ...]:
        return (float(prediction is not None and mme_says(prediction) == reference.answers[0]),)

    def pool(rows: Numbers) -> tuple[float, ...]:
        return float(rows.sum()), float(len(rows)), float(rows.all())

    return Metric(observe, _mme_figures, pool, _mme_summary)


def _mme_figures(sums: Numbers) -> Figures:
    right, questions, both, images = sums
    accuracy, plus = ratio(right, questions), ratio(both, images)
    return {"accuracy": accuracy, "accuracy_plus": plus, "score": 100 * (accuracy + plus)}


def _mme_summary(groups: Mapping[str, Figures]) -> Figures:
    totals = {}
    for name, subtasks in (("perception", PERCEPTION), ("cognition", COGNITION)):
        scores = [groups[subtask]["score"] for subtask in subtasks if subtask in groups]
        if scores:
            totals[name] = float(sum(scores))
    return totals
