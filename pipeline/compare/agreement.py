"""Measures how far two answers to one request agree.

Two failures with the same status agree; a failure and an answer do not, and neither do different failures.

ROUGE-L is the F-measure of the package rouge-score without stemming, whose words are runs of a-z and 0-9:
text in another script agrees wholly or not at all. chrF is sacrebleu's (character 6-grams, beta 2), from 0
to 100.
"""

import functools
import heapq
from collections.abc import Sequence
from itertools import count
from typing import TYPE_CHECKING, NamedTuple

from pipeline.compare.comparison import WorstAnswer
from pipeline.evaluate.metrics.text import vqa_normal

if TYPE_CHECKING:
    from rouge_score.rouge_scorer import RougeScorer
    from sacrebleu.metrics.chrf import CHRF

CHRF_OF_EQUALS = 100.0
SAME_ANSWER = "normalised_agreement"
# The names of agreements on terminals and in reports, by their keys in comparison.json.
AGREEMENTS = {
    SAME_ANSWER: "same answer",
    "exact_agreement": "letter for letter",
    "rouge_l": "ROUGE-L",
    "chrf": "chrF",
}


class ArmAnswer(NamedTuple):
    """Holds one arm's answer to a request; `prediction` counts only if `status` is `ok`."""

    prediction: str | None
    status: str


class Agreement(NamedTuple):
    """Holds how far two answers agree; `exact` and `normalised` are 0 or 1.

    `exact` compares letter for letter; `normalised`, shown as "same answer", after VQA's normalisation of
    short answers (case, punctuation, articles, numbers in words).
    """

    exact: float
    normalised: float
    rouge_l: float
    chrf: float


SAME = Agreement(1.0, 1.0, 1.0, CHRF_OF_EQUALS)
NOTHING = Agreement(0.0, 0.0, 0.0, 0.0)


def agreement(base: ArmAnswer, other: ArmAnswer) -> Agreement:
    """Measure how far an arm's answer agrees with the baseline's, which is the reference."""
    if base.status != "ok" or other.status != "ok":
        return SAME if base.status == other.status else NOTHING
    reference, candidate = base.prediction or "", other.prediction or ""
    if reference == candidate:
        return SAME
    normalised = float(vqa_normal(reference) == vqa_normal(candidate))
    return Agreement(0.0, normalised, rouge_l_f1(reference, candidate), chrf(reference, candidate))


def rouge_l_f1(reference: str, candidate: str) -> float:
    """Compute the F-measure of rouge-score's ROUGE-L, from 0 to 1."""
    if reference == candidate:
        return 1.0
    return float(_rouge().score(reference, candidate)["rougeL"].fmeasure)


def chrf(reference: str, candidate: str) -> float:
    """Compute sentence chrF2 (Popovic, 2015), from 0 to 100."""
    if reference == candidate:
        return CHRF_OF_EQUALS
    return float(_chrf().sentence_score(candidate, [reference]).score)


@functools.cache
def _rouge() -> "RougeScorer":
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(["rougeL"])


@functools.cache
def _chrf() -> "CHRF":
    from sacrebleu.metrics.chrf import CHRF

    return CHRF()


class Worst:
    """Keeps the requests, at most 20, whose two answers are least alike: by ROUGE-L, chrF, then order.

    Failures are left out: they are counted by status.
    """

    def __init__(self, most: int = 20) -> None:
        self._most, self._order = most, count()
        self._heap: list[tuple[float, float, int, WorstAnswer]] = []

    def add(self, request: Sequence[str], base: ArmAnswer, other: ArmAnswer, agreed: Agreement) -> None:
        """Add one request (key, sample_key, question) with both arms' answers."""
        if agreed.exact or base.status != "ok" or other.status != "ok":
            return
        key, sample_key, question = request
        answer = WorstAnswer(
            key=key,
            sample_key=sample_key,
            question=question,
            baseline=base.prediction or "",
            prediction=other.prediction or "",
            rouge_l=agreed.rouge_l,
        )
        item = (-agreed.rouge_l, -agreed.chrf, -next(self._order), answer)
        if len(self._heap) < self._most:
            heapq.heappush(self._heap, item)
        else:
            heapq.heappushpop(self._heap, item)

    def answers(self) -> list[WorstAnswer]:
        """Return the answers, the least alike first."""
        return [answer for *_, answer in sorted(self._heap, key=lambda item: item[:3], reverse=True)]
