"""Every scorer follows its published rule."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.evaluate.base import Reference
from pipeline.evaluate.metrics import choice, exact, vqa, yes_no
from pipeline.evaluate.metrics.ptb import tokenize
from pipeline.evaluate.metrics.text import CONTRACTIONS, evalai_normal, vqa_normal
from tests.pipeline.evaluate import cases


def annotators(written: str) -> list[str]:
    """Expand `yes:9|no:1` into ten answers."""
    pairs = (part.rpartition(":") for part in written.split("|"))
    return [answer for answer, _, count in pairs for _ in range(int(count))]


def test_there_are_at_least_200_cases():
    scored = (
        *(cases.VQA, cases.TEXTVQA, cases.VIZWIZ, cases.GQA, cases.POPE, cases.MME),
        *(cases.SCIENCEQA, cases.VLMEVAL, cases.LETTER),
    )
    assert all(len(rule) == len({repr(case) for case in rule}) for rule in scored)
    assert sum(map(len, scored)) >= 200


@pytest.mark.parametrize(
    ("score", "examples"),
    [
        (vqa.vqa_accuracy, cases.VQA),
        (vqa.textvqa_accuracy, cases.TEXTVQA),
        (vqa.vizwiz_accuracy, cases.VIZWIZ),
    ],
)
def test_against_annotators(score, examples):
    scores = {(case[0], case[1]): score(case[0], annotators(case[1])) for case in examples}
    assert scores == pytest.approx({(case[0], case[1]): case[2] for case in examples})


def test_gqa():
    assert {case[:2]: float(exact.gqa_match(*case[:2])) for case in cases.GQA} == {
        case[:2]: case[2] for case in cases.GQA
    }


@pytest.mark.parametrize(
    ("read", "examples"), [(yes_no.pope_says, cases.POPE), (yes_no.mme_says, cases.MME)], ids=["pope", "mme"]
)
def test_yes_and_no(read, examples):
    assert {prediction: read(prediction) for prediction, _ in examples} == dict(examples)


@pytest.mark.parametrize(
    ("read", "examples"),
    [
        (choice.scienceqa_letter, cases.SCIENCEQA),
        (choice.vlmeval_letter, cases.VLMEVAL),
        (choice.exact_letter, cases.LETTER),
    ],
    ids=["scienceqa", "vlmeval", "letter"],
)
def test_letters(read, examples):
    assert {case[:2]: read(*case[:2]) for case in examples} == {case[:2]: case[2] for case in examples}


@pytest.mark.parametrize(
    ("normal", "examples"), [(vqa_normal, cases.VQA_NORMAL), (evalai_normal, cases.EVALAI_NORMAL)]
)
def test_normal_forms(normal, examples):
    assert {text: normal(text) for text, _ in examples} == dict(examples)


def test_tokens():
    assert {text: " ".join(tokenize(text)) for text, _ in cases.TOKENS} == dict(cases.TOKENS)


@given(st.text(alphabet="aBst.'’,-/:!?()& 1½0\n", max_size=30))
def test_tokens_of_any_text_are_lower_case_and_hold_its_letters(text):
    tokens = tokenize(text)
    assert all(token and token == token.lower() and not set(token) & set(" \n") for token in tokens)
    bracketless = [token for token in tokens if token not in ("-lrb-", "-rrb-", "1/2")]
    letters = [character for character in text.lower() if character.isalpha()]
    assert [character for token in bracketless for character in token if character.isalpha()] == letters


def test_contractions_are_all_of_the_published_table():
    # 120 published entries less six that change nothing: let's, she's, and four with a capital
    assert len(CONTRACTIONS) == 114
    assert "its" not in CONTRACTIONS and "were" not in CONTRACTIONS


@given(st.integers(0, 12), st.integers(0, 12))
def test_leave_one_out_is_the_mean_over_annotators(matches, others):
    answers = ["yes"] * matches + ["no"] * others
    scores = [
        min(1, sum(answer == "yes" for place, answer in enumerate(answers) if place != left_out) / 3)
        for left_out in range(len(answers))
    ]
    expected = float(np.mean(scores)) if scores else 0.0
    assert vqa.leave_one_out(matches, len(answers)) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("metric", "answers"),
    [
        (vqa.vqa(), ("yes",) * 10),
        (vqa.textvqa(), ("yes",) * 10),
        (vqa.vizwiz(), ("yes",) * 10),
        (exact.gqa(), ("yes",)),
        (yes_no.pope(), ("yes",)),
        (yes_no.mme(), ("yes",)),
        (choice.scienceqa(), ("A",)),
        (choice.seed_bench(), ("A",)),
        (choice.mmbench(), ("A",)),
    ],
)
def test_a_missing_prediction_is_wrong(metric, answers):
    reference = Reference("1", "a.jpg", answers, choices=("yes", "no"))
    right = "A" if answers == ("A",) else "yes"
    assert metric.observe(right, reference)[0] == 1
    assert metric.observe(None, reference)[0] == 0


def test_a_row_without_a_prediction_says_neither_yes_nor_no():
    metric = yes_no.pope()
    rows = [(prediction, label) for label in ("yes", "no") for prediction in ("Yes", "No", None)]
    sums = np.array(
        [[*metric.observe(prediction, Reference("", "", (label,))), 1] for prediction, label in rows]
    ).sum(0)
    figures = metric.figures(sums)
    assert figures == pytest.approx(
        {"accuracy": 2 / 6, "precision": 1 / 2, "recall": 1 / 3, "f1": 2 / 5, "yes_ratio": 2 / 6}
    )


def test_llava_submits_normal_answers():
    """VQA's script alone would reject `Yes.`, but LLaVA normalises answers with EvalAI's processor first."""
    reference = Reference("1", "a.jpg", ("yes",) * 10)
    assert vqa.vqa().observe("Yes.", reference) == (1.0,)
    assert vqa.vqa_accuracy("Yes.", reference.answers) == 0.0


@pytest.mark.parametrize(
    ("answer", "score"), [("t-shirt", 0), ("two", 0), ("a cat", 0), ("Black.", 0), ("black", 1)]
)
def test_where_all_annotators_agree_only_the_prediction_is_normalised(answer, score):
    """Official: EvalAI's processor, then vqaEval.py, which leaves unanimous answers as they are."""
    assert vqa.vqa().observe(answer, Reference("1", "a.jpg", (answer,) * 10)) == (score,)
    assert vqa.vqa().observe("Black.", Reference("1", "a.jpg", ("black",) * 10)) == (1,)
    assert "not normalised" in vqa.vqa().notes[0]


def test_a_circle_counts_if_every_rotation_is_right():
    metric = choice.mmbench()
    references = [
        Reference("7", "7", ("A",), choices=("cat", "dog")),
        Reference("1000007", "7", ("B",), choices=("dog", "cat")),
    ]
    for predictions, expected in (
        (("A", "B"), (1, 1, 1)),
        (("A", "A"), (0, 1, 0.5)),
        (("B", "B"), (0, 0, 0.5)),
        (("cat", "cat"), (1, 1, 1)),
    ):
        rows = [metric.observe(*pair) for pair in zip(predictions, references, strict=True)]
        figures = metric.figures(np.array([*metric.pool(np.array(rows)), 1]))
        names = ("accuracy", "accuracy_vanilla", "accuracy_rows")
        assert tuple(figures[name] for name in names) == expected
