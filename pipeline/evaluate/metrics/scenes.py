"""The demo's scenes: questions by exact match, captions by the F1 of the attributes that they name."""

import numpy as np

from pipeline.demo.score import caption_f1, is_right
from pipeline.evaluate.base import Figures, Metric, Reference, ratio

CAPTION = "caption"


def scenes() -> Metric:
    """`accuracy` over questions, `caption_f1` over captions; a kind of question has the former alone."""
    return Metric(_observe, _figures)


def _observe(prediction: str | None, reference: Reference) -> tuple[float, ...]:
    if CAPTION in reference.groups:
        found = caption_f1(prediction, reference.answers[0])
        return 0.0, 0.0, found.hits, found.told, found.true
    return float(is_right(prediction, reference.answers)), 1.0, 0.0, 0.0, 0.0


def _figures(sums: np.ndarray) -> Figures:
    right, questions, hits, told, true, _ = sums
    return {"accuracy": ratio(right, questions), "caption_f1": ratio(2 * hits, told + true)}
