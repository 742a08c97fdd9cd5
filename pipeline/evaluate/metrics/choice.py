"""Multiple choice: which letter an answer chooses by published rules; MMBench's circular evaluation."""

import re
from collections.abc import Callable, Sequence
from string import ascii_uppercase

import numpy as np

from pipeline.evaluate.base import Figures, Metric, Reference, rates, ratio

_SEPARATORS = str.maketrans(dict.fromkeys(".()[],:;!*#{}", " "))
_THE_ANSWER_IS = re.compile(r"The answer is ([A-Z]).")
_SCIENCEQA_LETTERS = "ABCDE"
_LAST_WORDS = 4
CIRCLE = 1_000_000  # MMBench: rows of a circle have the same index modulo this


def exact_letter(prediction: str, choices: Sequence[str]) -> str | None:
    """The prediction if it is a letter and nothing else: LLaVA's convert_seed_for_submission.py."""
    found = prediction.strip()
    return found if len(found) == 1 and found in ascii_uppercase[: len(choices)] else None


def scienceqa_letter(prediction: str, choices: Sequence[str]) -> str | None:
    """LLaVA's eval_science_qa.py: `B`, `B. ...`, or exactly one `The answer is B` that something follows.

    A letter beyond the question's own choices is none. The script's first version then took one by chance.
    """
    text = prediction.strip()
    if text in tuple(_SCIENCEQA_LETTERS):
        found = text
    elif text[:1] in tuple(_SCIENCEQA_LETTERS) and text[1:3] == ". ":
        found = text[0]
    else:
        told = _THE_ANSWER_IS.findall(text)
        found = told[0] if len(told) == 1 else ""
    return found if found and found in ascii_uppercase[: len(choices)] else None


def vlmeval_letter(prediction: str, choices: Sequence[str]) -> str | None:
    """VLMEvalKit's `can_infer`, by which MMBench (arXiv 2307.06281) is scored without a judge.

    First the letters: if the words hold exactly one of the choices' letters, brackets and punctuation aside,
    and it is first among the last four words, it is the answer. Then the texts: if exactly one choice's text
    is in the answer, case aside, and the answer is at most twice as long as all choices together.
    """
    words = prediction.translate(_SEPARATORS).split()
    letters = [letter for letter in ascii_uppercase[: len(choices)] if letter in words]
    if len(letters) == 1 and words.index(letters[0]) >= len(words) - _LAST_WORDS:
        return letters[0]
    lowered = prediction.lower()
    if len(lowered) > 2 * sum(map(len, choices)):
        return None
    named = [index for index, choice in enumerate(choices) if choice.lower() in lowered]
    return ascii_uppercase[named[0]] if len(named) == 1 else None


def scienceqa() -> Metric:
    """ScienceQA: `accuracy` by LLaVA's script, `accuracy_vlmeval` by VLMEvalKit's more lenient reading."""
    return _letters(scienceqa_letter)


def seed_bench() -> Metric:
    """SEED-Bench: `accuracy` by LLaVA's script (the letter alone), `accuracy_vlmeval` by VLMEvalKit's."""
    return _letters(exact_letter)


def _letters(read: Callable[[str, Sequence[str]], str | None]) -> Metric:
    def observe(prediction: str | None, reference: Reference) -> tuple[float, ...]:
        if prediction is None:
            return 0.0, 0.0
        (answer,) = reference.answers
        rules = (read, vlmeval_letter)
        return tuple(float(rule(prediction, reference.choices) == answer) for rule in rules)

    return Metric(observe, rates("accuracy", "accuracy_vlmeval"))


def mmbench() -> Metric:
    """MMBench: `accuracy` counts a question if it is answered right in every rotation of its choices.

    `accuracy_vanilla` counts the unrotated ones alone; `accuracy_rows` counts every row by itself.
    """

    def observe(prediction: str | None, reference: Reference) -> tuple[float, ...]:
        right = prediction is not None and vlmeval_letter(prediction, reference.choices) in reference.answers
        return float(right), float(int(reference.question_id) < CIRCLE)

    return Metric(observe, _circular_figures, _circle)


def _circle(rows: np.ndarray) -> tuple[float, ...]:
    right, unrotated = rows.T.astype(bool)
    return float(right.all()), float((right & unrotated).any()), float(right.sum()), float(len(rows))


def _circular_figures(sums: np.ndarray) -> Figures:
    circular, vanilla, right, rows, count = sums
    return {
        "accuracy": ratio(circular, count),
        "accuracy_vanilla": ratio(vanilla, count),
        "accuracy_rows": ratio(right, rows),
    }
