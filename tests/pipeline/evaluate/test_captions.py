"""Caption scores against slow reference code, worked examples, and sacrebleu's corpus score."""

import math
from collections import Counter

import numpy as np
import pytest
from sacrebleu.metrics import BLEU

from pipeline.evaluate.base import Reference
from pipeline.evaluate.metrics.caption import captions, coco_rouge_l, meteor
from pipeline.evaluate.metrics.cider import CiderD
from pipeline.evaluate.metrics.ptb import tokenize

WORDS = ["a", "the", "dog", "cat", "runs", "sits", "on", "grass", "sofa", "brown", "two", "people"]


def sentences(seed: int, images: int, each: int) -> tuple[list[str], list[list[str]]]:
    rng = np.random.default_rng(seed)

    def say():
        return " ".join(rng.choice(WORDS, int(rng.integers(1, 9))))

    return [say() for _ in range(images)], [[say() for _ in range(each)] for _ in range(images)]


def cider_by_hand(candidates: list[str], references: list[list[str]]) -> list[float]:
    """Compute CIDEr-D from the paper's equations, with dense vectors."""

    def grams(text, n):
        words = text.split()
        return Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1))

    scores = []
    for candidate, image_references in zip(candidates, references, strict=True):
        total = 0.0
        for n in range(1, 5):
            every = sorted(
                set().union(*(grams(text, n) for group in (*references, [candidate]) for text in group))
            )
            images = [max(1, sum(any(grams(t, n)[g] for t in group) for group in references)) for g in every]
            idf = np.log(len(references) / np.array(images)) if every else np.zeros(0)
            ours = np.array([grams(candidate, n)[g] for g in every]) * idf
            for reference in image_references:
                theirs = np.array([grams(reference, n)[g] for g in every]) * idf
                norm = np.linalg.norm(ours) * np.linalg.norm(theirs)
                length_difference = len(candidate.split()) - len(reference.split())
                if norm:
                    clipped = np.minimum(ours, theirs) @ theirs
                    total += clipped / norm * math.exp(-(length_difference**2) / 72) / len(image_references)
        scores.append(10 * total / 4)
    return scores


def test_cider_equals_the_equations():
    candidates, references = sentences(0, 12, 3)
    score = CiderD([[text.split() for text in group] for group in references])
    scores = [
        score(candidate.split(), [text.split() for text in group])
        for candidate, group in zip(candidates, references, strict=True)
    ]
    assert scores == pytest.approx(cider_by_hand(candidates, references))


def test_cider_of_worked_examples():
    corpus = [[["a", "red", "dog", "runs"]], [["two", "cats", "sit", "here"]]]
    score = CiderD(corpus)
    assert score(["a", "red", "dog", "runs"], corpus[0]) == pytest.approx(10)
    assert score(["two", "cats", "sit", "here"], corpus[0]) == 0
    assert score([], corpus[0]) == 0
    # three words of four: 3, 2, 1 and 0 n-grams of 4, 3, 2 and 1, all of one weight; one word shorter
    cosines = math.sqrt(3 / 4) + math.sqrt(2 / 3) + math.sqrt(1 / 2)
    assert score(["a", "red", "dog"], corpus[0]) == pytest.approx(10 / 4 * cosines * math.exp(-1 / 72))
    # n-grams that all images have weigh nothing
    assert CiderD(corpus[:1])(["a", "red", "dog", "runs"], corpus[0]) == 0


def test_rouge_of_worked_examples():
    def score(candidate, *true):
        return coco_rouge_l(candidate.split(), [text.split() for text in true])

    assert score("a b c", "a b c") == pytest.approx(1)
    assert score("a b", "c d") == score("", "a") == 0
    precision, recall = 2 / 3, 2 / 4
    expected = (1 + 1.44) * precision * recall / (recall + 1.44 * precision)
    assert score("a x c", "a b c d") == pytest.approx(expected)
    # the best precision comes from one reference, the best recall from another
    both = (1 + 1.44) * (2 / 3) * 1.0 / (1.0 + 1.44 * (2 / 3))
    assert score("a x c", "a b c d", "x") == pytest.approx(both)


def test_meteor_takes_stems():
    assert meteor(["dogs"], [["dog"]]) > 0
    assert meteor(["hound"], [["dog"]]) == 0 == meteor([], [["dog"]])


def test_bleu_equals_sacrebleu_over_the_corpus():
    candidates, references = sentences(1, 40, 3)
    pairs = list(zip(candidates, references, strict=True))
    metric = captions([Reference(str(i), "", tuple(texts)) for i, (_, texts) in enumerate(pairs)])
    rows = [metric.observe(candidate, Reference("", "", tuple(texts))) for candidate, texts in pairs]
    figures = metric.figures(np.column_stack([rows, np.ones(len(rows))]).sum(0))
    for n in range(1, 5):
        corpus = BLEU(tokenize="none", smooth_method="none", max_ngram_order=n)
        streams = [[" ".join(tokenize(texts[place])) for texts in references] for place in range(3)]
        expected = (
            corpus.corpus_score([" ".join(tokenize(candidate)) for candidate in candidates], streams).score
            / 100
        )
        assert figures[f"bleu_{n}"] == pytest.approx(expected)


def test_perfect_and_missing_captions():
    references = [
        Reference(str(i), "", (f"the {word} of number {i} stands here",)) for i, word in enumerate(WORDS)
    ]
    metric = captions(references)
    for say, expected in ((lambda reference: reference.answers[0], 1.0), (lambda reference: None, 0.0)):
        rows = [[*metric.observe(say(reference), reference), 1] for reference in references]
        figures = metric.figures(np.sum(rows, 0))
        assert figures["bleu_4"] == pytest.approx(expected)
        assert figures["rouge_l"] == pytest.approx(expected)
        assert figures["cider"] == pytest.approx(10 * expected)
        assert figures["meteor_nltk"] == pytest.approx(expected, abs=0.01)
    assert metric.notes
