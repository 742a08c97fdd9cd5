"""Yes or no: POPE (arXiv 2305.10355) by LLaVA's eval_pope.py, MME (2306.13394) by its calculation.py."""

from collections.abc import Mapping
from statistics import fmean

import numpy as np

from pipeline.evaluate.base import Figures, Metric, Reference, f1, ratio

_NOES = ("No", "not", "no")
PERCEPTION = (
    *("existence", "count", "position", "color", "posters"),
    *("celebrity", "scene", "landmark", "artwork", "OCR"),
)
COGNITION = ("commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning")


def pope_says(prediction: str) -> str:
    """`no` if No, not or no is among the words of the first sentence, else `yes`.

    The sentence ends at the first period, commas are taken out, and words are what single blanks separate.
    """
    words = prediction.strip().split(".")[0].replace(",", "").split(" ")
    return "no" if any(word in words for word in _NOES) else "yes"


def mme_says(prediction: str) -> str:
    """`yes`, `no` or `other`: what the first four characters hold, in lower case."""
    start = prediction.strip().lower()[:4]
    return "yes" if "yes" in start else "no" if "no" in start else "other"


def pope() -> Metric:
    """Accuracy, precision, recall and F1 of "yes", and how often the predictions say it.

    A row without a prediction is wrong: it says neither, so that it lowers the accuracy and, where the
    answer is yes, the recall.
    """

    def observe(prediction: str | None, reference: Reference) -> tuple[float, ...]:
        said = None if prediction is None else pope_says(prediction)
        true = reference.answers[0]
        return float(said == true), float(said == true == "yes"), float(said == "yes"), float(true == "yes")

    return Metric(observe, _pope_figures, summary=_pope_summary)


def _pope_figures(sums: np.ndarray) -> Figures:
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
    """The mean F1 over the kinds of negatives, which is what papers tell."""
    return {"f1_mean_of_categories": fmean(figures["f1"] for figures in groups.values())} if groups else {}


def mme() -> Metric:
    """Accuracy over questions, accuracy+ over images of which both questions are answered right, by subtask.

    A subtask's score is 100 times their sum; `perception` and `cognition` add their subtasks' scores up.
    """

    def observe(prediction: str | None, reference: Reference) -> tuple[float, ...]:
        return (float(prediction is not None and mme_says(prediction) == reference.answers[0]),)

    def pool(rows: np.ndarray) -> tuple[float, ...]:
        return float(rows.sum()), float(len(rows)), float(rows.all())

    return Metric(observe, _mme_figures, pool, _mme_summary)


def _mme_figures(sums: np.ndarray) -> Figures:
    right, questions, both, images = sums
    accuracy, plus = ratio(right, questions), ratio(both, images)
    return {"accuracy": accuracy, "accuracy_plus": plus, "score": 100 * (accuracy + plus)}


def _mme_summary(groups: Mapping[str, Figures]) -> Figures:
    found = {}
    for name, subtasks in (("perception", PERCEPTION), ("cognition", COGNITION)):
        scores = [groups[subtask]["score"] for subtask in subtasks if subtask in groups]
        if scores:
            found[name] = float(sum(scores))
    return found
