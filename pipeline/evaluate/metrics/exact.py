"""Exact match."""

from pipeline.demo.score import is_right
from pipeline.evaluate.base import Metric, Reference, rates


def gqa_match(prediction: str, answer: str) -> bool:
    """GQA's eval.py (arXiv 1902.09506) compares to the letter; LLaVA lowers, and takes full stops off."""
    return prediction.strip().rstrip(".").lower() == answer


def gqa() -> Metric:
    """Accuracy over the questions, and by structural and semantic type."""

    def observe(prediction: str | None, reference: Reference) -> tuple[float, ...]:
        return (float(prediction is not None and gqa_match(prediction, reference.answers[0])),)

    return Metric(observe, rates("accuracy"))


def one_of() -> Metric:
    """Equal to one of the right answers but for case, blanks and a full stop: the demo scenes' questions."""

    def observe(prediction: str | None, reference: Reference) -> tuple[float, ...]:
        return (float(is_right(prediction, reference.answers)),)

    return Metric(observe, rates("accuracy"))
