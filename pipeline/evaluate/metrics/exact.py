"""Scores answers by exact match."""

from pipeline.demo.score import caption_f1, is_right
from pipeline.evaluate.base import Figures, Metric, Numbers, Reference, rates, ratio


def gqa_match(prediction: str, answer: str) -> bool:
    """Compare as GQA's eval.py (arXiv 1902.09506), after LLaVA's lower-casing and removal of full stops."""
    return prediction.strip().rstrip(".").lower() == answer


def gqa() -> Metric:
    """Score GQA: accuracy over all questions, and by structural and semantic type."""

    def observe(prediction: str | None, reference: Reference) -> tuple[float, ...]:
        return (float(prediction is not None and gqa_match(prediction, reference.answers[0])),)

    return Metric(observe, rates("accuracy"))


def one_of() -> Metric:
    """Score answers that equal a right one but for case, blanks and a full stop: the demo's questions."""

    def observe(prediction: str | None, reference: Reference) -> tuple[float, ...]:
        return (float(is_right(prediction, reference.answers)),)

    return Metric(observe, rates("accuracy"))


CAPTION = "caption"


def scenes() -> Metric:
    """Score the demo's scenes: `accuracy` over questions, `caption_f1` over captions."""
    return Metric(_observe_scene, _scene_figures)


def _observe_scene(prediction: str | None, reference: Reference) -> tuple[float, ...]:
    if CAPTION in reference.groups:
        match = caption_f1(prediction, reference.answers[0])
        return 0.0, 0.0, match.hits, match.claimed, match.true
    return float(is_right(prediction, reference.answers)), 1.0, 0.0, 0.0, 0.0


def _scene_figures(sums: Numbers) -> Figures:
    right, questions, hits, said, true, _ = sums
    return {"accuracy": ratio(right, questions), "caption_f1": ratio(2 * hits, said + true)}
