"""Scores multiple choice: reads an answer's letter by published rules; MMBench's circular evaluation."""

import re
from collections.abc import Callable, Sequence
from string import ascii_uppercase

from pipeline.evaluate.base import Figures, Metric, Numbers, Reference, rates, ratio

_SEPARATORS = str.maketrans(dict.fromkeys(".()[],:;!*#{}", " "))
_THE_ANSWER_IS = re.compile(r"The answer is ([A-Z]).")
_SCIENCEQA_LETTERS = "ABCDE"
_LAST_WORDS = 4
REFUSED = "Z"  # no choice's letter
_NO_ANSWER = "Failed to obtain answer via API"
_REFUSALS = (
    "Sorry, I can't help with images of people yet.",
    "I can't process this file.",
    "I'm sorry, but without the image provided",
    "Cannot determine the answer",
)
CIRCLE = 1_000_000  # MMBench: rows of one circle have the same index modulo this number


def exact_letter(prediction: str, choices: Sequence[str]) -> str | None:
    """Return the prediction if it is a single letter: LLaVA's convert_seed_for_submission.py."""
    letter = prediction.strip()
    return letter if len(letter) == 1 and letter in ascii_uppercase[: len(choices)] else None


def scienceqa_letter(prediction: str, choices: Sequence[str]) -> str | None:
    """Read a letter as eval_science_qa.py: `B`, `B. ...`, or one `The answer is B` before another character.

    A letter beyond the question's choices is None, where the script's first version chose one at random.
    """
    text = prediction.strip()
    if text in tuple(_SCIENCEQA_LETTERS):
        letter = text
    elif text[:1] in tuple(_SCIENCEQA_LETTERS) and text[1:3] == ". ":
        letter = text[0]
    else:
        letters = _THE_ANSWER_IS.findall(text)
        letter = letters[0] if len(letters) == 1 else ""
    return letter if letter and letter in ascii_uppercase[: len(choices)] else None


def vlmeval_letter(prediction: str, choices: Sequence[str]) -> str | None:
    """Read a letter as VLMEvalKit's `can_infer`, which scores MMBench (arXiv 2307.06281) without a judge.

    The rules are those of VLMEvalKit from 2025-08-04 (#1175) until 2026-06-17 (#1552). First the letters: a
    refusal is Z, which is always wrong. If the words hold exactly one of the choices' letters, brackets and
    punctuation aside, and it is first among the last four words, it is the answer; if they hold none, but Z,
    it is Z. Then the texts: if exactly one choice's text is in the answer, case aside, and the answer is at
    most twice as long as all choices together.

    Not taken: #1552 reads a letter after `answer is` anywhere, in either case, so that "the answer is a dog"
    is A. Published numbers of LLaVA and TRIM are older, and none of LLaVA-1.5's answers to MMBench changes.
    Against the versions of 2024 the four last words and the length are stricter.
    """
    if _NO_ANSWER not in prediction:
        if any(words in prediction for words in _REFUSALS):
            return REFUSED
        if (letter := _lone_letter(prediction, choices)) is not None:
            return letter
    lowered = prediction.lower()
    if len(lowered) > 2 * sum(map(len, choices)):
        return None
    named = [index for index, choice in enumerate(choices) if choice.lower() in lowered]
    return ascii_uppercase[named[0]] if len(named) == 1 else None


def _lone_letter(prediction: str, choices: Sequence[str]) -> str | None:
    """Return the one letter of the choices that the words hold near their end, or Z."""
    words = prediction.translate(_SEPARATORS).split()
    letters = [letter for letter in ascii_uppercase[: len(choices)] if letter in words]
    if len(letters) == 1 and words.index(letters[0]) >= len(words) - _LAST_WORDS:
        return letters[0]
    return REFUSED if not letters and REFUSED in words else None


def scienceqa() -> Metric:
    """Score ScienceQA: `accuracy` by LLaVA's script, `accuracy_vlmeval` by the more lenient VLMEvalKit."""
    return _letters(scienceqa_letter)


def seed_bench() -> Metric:
    """Score SEED-Bench: `accuracy` by LLaVA's script (a letter only), `accuracy_vlmeval` by VLMEvalKit."""
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
    """Score MMBench: `accuracy` counts a question if every rotation of its choices is answered right.

    `accuracy_vanilla` counts the unrotated ones alone; `accuracy_rows` counts every row by itself.
    """

    def observe(prediction: str | None, reference: Reference) -> tuple[float, ...]:
        right = prediction is not None and vlmeval_letter(prediction, reference.choices) in reference.answers
        return float(right), float(int(reference.question_id) < CIRCLE)

    return Metric(observe, _circular_figures, _circle)


def _circle(rows: Numbers) -> tuple[float, ...]:
    right, unrotated = rows.T.astype(bool)
    return float(right.all()), float((right & unrotated).any()), float(right.sum()), float(len(rows))


def _circular_figures(sums: Numbers) -> Figures:
    circular, vanilla, right, rows, count = sums
    return {
        "accuracy": ratio(circular, count),
        "accuracy_vanilla": ratio(vanilla, count),
        "accuracy_rows": ratio(right, rows),
    }
