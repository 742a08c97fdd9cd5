"""How far two answers to one request agree.

Two failures with the same status agree; a failure and an answer do not, and neither do different failures.

ROUGE-L is the F-measure of the package rouge-score without stemming, whose words are runs of a-z and 0-9:
text in another script agrees wholly or not at all. chrF is sacrebleu's (character 6-grams, beta 2), from 0
to 100.
"""

import functools
import heapq
from collections.abc import Sequence
from itertools import count
from typing import Any, NamedTuple

from pipeline.evaluate.metrics.text import vqa_normal

CHRF_OF_EQUALS = 100.0


class Answer(NamedTuple):
    """What one arm said to a request; `prediction` counts only if `status` is `ok`."""

    prediction: str | None
    status: str


class Agreement(NamedTuple):
    """`exact` and `normalised` are 0 or 1 (the latter after VQA's normalisation of short answers)."""

    exact: float
    normalised: float
    rouge_l: float
    chrf: float


SAME = Agreement(1.0, 1.0, 1.0, CHRF_OF_EQUALS)
NOTHING = Agreement(0.0, 0.0, 0.0, 0.0)


def agreement(base: Answer, other: Answer) -> Agreement:
    """How far an arm's answer agrees with the baseline's, which takes the place of the reference."""
    if base.status != "ok" or other.status != "ok":
        return SAME if base.status == other.status else NOTHING
    true, said = base.prediction or "", other.prediction or ""
    if true == said:
        return SAME
    return Agreement(0.0, float(vqa_normal(true) == vqa_normal(said)), rouge_l(true, said), chrf(true, said))


def rouge_l(reference: str, candidate: str) -> float:
    """The F-measure of ROUGE-L, from 0 to 1."""
    if reference == candidate:
        return 1.0
    return float(_rouge().score(reference, candidate)["rougeL"].fmeasure)


def chrf(reference: str, candidate: str) -> float:
    """Sentence chrF2 (Popovic, 2015), from 0 to 100."""
    if reference == candidate:
        return CHRF_OF_EQUALS
    return float(_chrf().sentence_score(candidate, [reference]).score)


@functools.cache
def _rouge() -> Any:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(["rougeL"])


@functools.cache
def _chrf() -> Any:
    from sacrebleu.metrics import CHRF

    return CHRF()


class Worst:
    """The requests, at most 20, whose two answers have least in common, by ROUGE-L, then chrF, then order.

    Failures are no disagreements in words: they are counted by status, and stay out.
    """

    def __init__(self, most: int = 20) -> None:
        self._most, self._order = most, count()
        self._heap: list[tuple[float, float, int, dict[str, Any]]] = []

    def add(self, request: Sequence[str], base: Answer, other: Answer, found: Agreement) -> None:
        """One request (key, sample_key, question) with both arms' answers."""
        if found.exact or base.status != "ok" or other.status != "ok":
            return
        key, sample_key, question = request
        told = {"key": key, "sample_key": sample_key, "question": question}
        told |= {"baseline": base.prediction or "", "prediction": other.prediction or ""}
        item = (-found.rouge_l, -found.chrf, -next(self._order), told | {"rouge_l": found.rouge_l})
        if len(self._heap) < self._most:
            heapq.heappush(self._heap, item)
        else:
            heapq.heappushpop(self._heap, item)

    def told(self) -> list[dict[str, Any]]:
        """The worst first."""
        return [item[-1] for item in sorted(self._heap, reverse=True)]
