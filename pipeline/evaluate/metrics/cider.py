"""Computes CIDEr-D (arXiv 1411.5726, section 3 and the gaming-resistant variant of section 7.1)."""

import math
from collections import Counter
from collections.abc import Iterable, Sequence

N_GRAMS = 4
SIGMA = 6.0  # of the Gaussian penalty for a difference in length
SCALE = 10.0

NGram = tuple[str, ...]
Tokens = Sequence[str]


class CiderD:
    """Computes CIDEr-D against a corpus: an n-gram weighs less, the more images have it in a reference.

    Args:
        corpus: the tokenised references, [images][references][tokens], of the whole set: the inverse document
            frequencies are the set's, not those of the images that were answered.
    """

    def __init__(self, corpus: Iterable[Sequence[Tokens]]) -> None:
        # by the hash of the n-gram, which takes less memory than its tuple
        self._images_with: Counter[int] = Counter()
        images = 0
        for references in corpus:
            images += 1
            self._images_with.update({hash(ngram) for tokens in references for ngram in _ngrams(tokens)})
        self._log_images = math.log(images) if images else 0.0

    def __call__(self, candidate: Tokens, references: Sequence[Tokens]) -> float:
        """Compute the mean clipped, penalised cosine over references and n-gram lengths, times 10."""
        weights = self._vectors(candidate)
        scores = [self._similarity(candidate, weights, reference) for reference in references]
        return SCALE * sum(scores) / (len(scores) * N_GRAMS) if scores else 0.0

    def _similarity(self, candidate: Tokens, weights: list[dict[NGram, float]], reference: Tokens) -> float:
        difference = _length(candidate) - _length(reference)
        penalty = math.exp(-(difference**2) / (2 * SIGMA**2))
        true = self._vectors(reference)
        return penalty * sum(map(_clipped_cosine, weights, true))

    def _vectors(self, tokens: Tokens) -> list[dict[NGram, float]]:
        """Compute TF-IDF weights, a vector for each n; frequencies are counts, as in the published code."""
        vectors: list[dict[NGram, float]] = [{} for _ in range(N_GRAMS)]
        for ngram, count in Counter(_ngrams(tokens)).items():
            rarity = self._log_images - math.log(max(1, self._images_with[hash(ngram)]))
            vectors[len(ngram) - 1][ngram] = count * rarity
        return vectors


def _clipped_cosine(weights: dict[NGram, float], true: dict[NGram, float]) -> float:
    norms = math.hypot(*weights.values()) * math.hypot(*true.values())
    if not norms:
        return 0.0
    return (
        sum(min(weight, true[ngram]) * true[ngram] for ngram, weight in weights.items() if ngram in true)
        / norms
    )


def _length(tokens: Tokens) -> int:
    return max(len(tokens) - 1, 0)  # the published code counts bigrams


def _ngrams(tokens: Tokens) -> list[NGram]:
    return [
        tuple(tokens[start : start + n])
        for n in range(1, N_GRAMS + 1)
        for start in range(len(tokens) - n + 1)
    ]
