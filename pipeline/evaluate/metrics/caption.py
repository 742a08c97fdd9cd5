"""Scores captions by COCO's rules (arXiv 1504.00325): BLEU, ROUGE-L, METEOR and CIDEr-D, without Java.

Deviations:
1. The published tokenizer is Stanford's, which is Java; `ptb.py` says where its tokens differ.
2. METEOR is nltk's: exact and stemmed matches, no synonyms (their tables are a download), with the parameters
   of the first METEOR. Its values are some 1.8 times METEOR 1.5's and are comparable only with one another,
   so the figure is `meteor_nltk`. SPICE needs a download and Java, and is not there.
3. CIDEr-D's document frequencies come from the whole annotation file, coco-caption's from the images that
   were answered: with partial=true the two differ.
4. A corpus without any matching 4-gram has a BLEU-4 of 0, where coco-caption has about 1e-4.
"""

import math
from collections.abc import Collection, Sequence
from functools import partial
from typing import TYPE_CHECKING

from pipeline.evaluate.base import Figures, Metric, Numbers, Reference, ratio
from pipeline.evaluate.metrics.cider import CiderD
from pipeline.evaluate.metrics.ptb import tokenize

if TYPE_CHECKING:
    from sacrebleu.metrics.bleu import BLEU

ORDER = 4
ROUGE_BETA = 1.2
NOTES = (
    "meteor_nltk is nltk's METEOR, without synonyms: some 1.8 times METEOR 1.5's, comparable with itself.",
)


def coco_rouge_l(candidate: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """Compute coco-caption's ROUGE-L: F, beta 1.2, of the best precision and the best recall.

    `compare` uses rouge-score's, which is another measure: `agreement.rouge_l_f1`.
    """
    if not candidate or not any(references):
        return 0.0
    common = [(_common_subsequence(candidate, reference), len(reference)) for reference in references]
    precision = max(length for length, _ in common) / len(candidate)
    recall = max(length / size for length, size in common if size)
    weight = ROUGE_BETA**2
    return (1 + weight) * precision * recall / (recall + weight * precision) if precision and recall else 0.0


def _common_subsequence(first: Sequence[str], second: Sequence[str]) -> int:
    lengths = [0] * (len(second) + 1)
    for token in first:
        before = 0
        for place, other in enumerate(second, 1):
            before, lengths[place] = (
                lengths[place],
                before + 1 if token == other else max(lengths[place], lengths[place - 1]),
            )
    return lengths[-1]


class _NoSynonyms:
    """Replaces WordNet in nltk's METEOR: no word has a synonym."""

    @staticmethod
    def synsets(_: str) -> list[object]:
        return []


def meteor(candidate: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """Compute nltk's METEOR (Banerjee and Lavie, 2005) with exact and stemmed matches."""
    from nltk.translate.meteor_score import meteor_score

    return (
        float(meteor_score(references, candidate, wordnet=_NoSynonyms)) if candidate and references else 0.0
    )


def captions(references: Collection[Reference]) -> Metric:
    """Return the metric of all four; the n-gram weights of CIDEr-D come from all `references`."""
    from sacrebleu.metrics.bleu import BLEU

    cider = CiderD([tokenize(answer) for answer in reference.answers] for reference in references)
    observe = partial(_observe, cider, BLEU(tokenize="none", effective_order=True))
    return Metric(observe, _figures, notes=NOTES)


def _observe(cider: CiderD, bleu: "BLEU", prediction: str | None, reference: Reference) -> tuple[float, ...]:
    said = tokenize(prediction or "")
    true = [tokenize(answer) for answer in reference.answers]
    ngrams = bleu.sentence_score(" ".join(said), [" ".join(tokens) for tokens in true])
    return (
        *ngrams.counts,
        *ngrams.totals,
        ngrams.sys_len,
        ngrams.ref_len,
        coco_rouge_l(said, true),
        meteor(said, true),
        cider(said, true),
    )


def _figures(sums: Numbers) -> Figures:
    matched, totals, (length, reference_length, *means, count) = (
        sums[:ORDER],
        sums[ORDER : 2 * ORDER],
        sums[2 * ORDER :],
    )
    bleu = {
        f"bleu_{n}": bleu_of(matched[:n], totals[:n], length, reference_length) for n in range(1, ORDER + 1)
    }
    return bleu | {
        name: ratio(mean, count)
        for name, mean in zip(("rouge_l", "meteor_nltk", "cider"), means, strict=True)
    }


def bleu_of(matched: Numbers, totals: Numbers, length: float, reference_length: float) -> float:
    """Compute BLEU (Papineni et al., 2002) from a corpus's matched n-grams, all n-grams, lengths."""
    if not matched.all():
        return 0.0
    logs = [math.log(hits / total) for hits, total in zip(matched, totals, strict=True)]
    return math.exp(sum(logs) / len(logs) + min(0.0, 1 - reference_length / length))
