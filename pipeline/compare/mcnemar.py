"""McNemar's test (1947): do two arms err on different requests more often than chance would have it?"""

import math

import numpy as np


def mcnemar(base: np.ndarray, other: np.ndarray) -> dict[str, float] | None:
    """The exact two-sided test of paired scores; None if a score is neither 0, 1 nor NaN (not scored).

    Returns:
        b: right in the baseline alone; c: right in the other arm alone; p: the probability, under a fair
        coin, of a split of b + c at least as uneven.
    """
    scored = ~(np.isnan(base) | np.isnan(other))
    base, other = base[scored], other[scored]
    if not len(base) or not np.isin([base, other], (0.0, 1.0)).all():
        return None
    b, c = int((base > other).sum()), int((other > base).sum())
    return {"b": b, "c": c, "p": sign_test(b, c)}


def sign_test(b: int, c: int) -> float:
    """The exact two-sided binomial probability of a split as uneven as b to c; 1 if both are 0."""
    n, fewer = b + c, min(b, c)
    logs = [_log_choose(n, k) - n * math.log(2) for k in range(fewer + 1)]
    return min(1.0, 2 * math.fsum(map(math.exp, logs)))


def _log_choose(n: int, k: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
