"""Exact match."""

import numpy as np

from pipeline.demo.score import caption_f1, is_right
from pipeline.evaluate.base import Figures, Metric, Reference, rates, ratio


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


CAPTION = "caption"


def scenes() -> Metric:
    """`accuracy` over questions, `caption_f1` over captions; a kind of question has the former alone."""
    return Metric(_observe_scene, _scene_figures)


def _observe_scene(prediction: str | None, reference: Reference) -> tuple[float, ...]:
    if CAPTION in reference.groups:
        found = caption_f1(prediction, reference.answers[0])
        return 0.0, 0.0, found.hits, found.claimed, found.true
    return float(is_right(prediction, reference.answers)), 1.0, 0.0, 0.0, 0.0


def _scene_figures(sums: np.ndarray) -> Figures:
    right, questions, hits, told, true, _ = sums
    return {"accuracy": ratio(right, questions), "caption_f1": ratio(2 * hits, told + true)}
