"""A slow, plain version of TRIM's rules (arXiv 2409.10994) and of the random choice: one patch at a time.

Float64 and plain Python throughout, sharing no code with the package. `margin` is the distance to the nearest
different answer, so that a test can skip inputs whose answer depends on the last bit of a float32.
"""

import math
from dataclasses import dataclass

import numpy as np


@dataclass
class Answer:
    kept: list[int]
    tokens: list[list[float]]
    margin: float


def quartile(values: list[float], q: float) -> float:
    ordered = sorted(values)
    position = (len(ordered) - 1) * q
    below = math.floor(position)
    above = math.ceil(position)
    return ordered[below] * (1 - (position - below)) + ordered[above] * (position - below)


def logits(metric: np.ndarray, text: np.ndarray, sign: int, normalize: bool) -> list[float]:
    out = []
    for patch in metric.tolist():
        value = math.fsum(a * b for a, b in zip(patch, text.tolist(), strict=True))
        if normalize:
            lengths = math.sqrt(math.fsum(a * a for a in patch)) * math.sqrt(
                math.fsum(b * b for b in text.tolist())
            )
            value = value / lengths if lengths > 0 else 0.0
        out.append(sign * value)
    return out


def softmax(values: list[float]) -> list[float]:
    top = max(values)
    weights = [math.exp(v - top) for v in values]
    return [w / math.fsum(weights) for w in weights]


def outliers(scores: list[float], factor: float) -> tuple[int, float]:
    """Count the scores beyond the upper fence, and measure the nearest score's relative distance to it."""
    q1, q3 = quartile(scores, 0.25), quartile(scores, 0.75)
    fence = q3 + factor * (q3 - q1)
    gap = min(abs(s - fence) for s in scores)
    return sum(1 for s in scores if s > fence), gap / fence


def trim(
    patches: np.ndarray,
    metric: np.ndarray,
    text: np.ndarray,
    *,
    keep_ratio: float | None = None,
    num_kept: int | None = None,
    budget: int | None = None,
    sign: int = -1,
    normalize: bool = False,
    iqr_factor: float = 1.5,
    aggregate: bool = True,
) -> Answer:
    n = len(patches)
    ranked = logits(metric, text, sign, normalize)
    margin = math.inf
    if budget is not None:
        count = n if budget >= n else budget - 1 if aggregate else budget
    elif num_kept is not None:
        count = min(num_kept, n)
    elif keep_ratio is not None:
        count = int(n * keep_ratio)
    else:
        count, margin = outliers(softmax(ranked), iqr_factor)
    if count == 0 and not aggregate:
        count = 1

    order = sorted(range(n), key=lambda i: (-ranked[i], i))
    if 0 < count < n:
        margin = min(margin, ranked[order[count - 1]] - ranked[order[count]])
    kept = sorted(order[:count])
    tokens = [patches[i].tolist() for i in kept]
    pruned = [i for i in range(n) if i not in set(kept)]
    if aggregate and pruned:
        tokens.append(
            [math.fsum(float(patches[i][d]) for i in pruned) / len(pruned) for d in range(patches.shape[1])]
        )
    return Answer(kept, tokens, margin)


MASK = 2**64 - 1


def splitmix_output(z: int) -> int:
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)


def random_choice(seed: int, identity: int, n: int, count: int) -> list[int]:
    """Return the patches with the `count` largest signed lots, drawn with Python's unbounded integers."""
    stream = splitmix_output(splitmix_output(seed) ^ (identity & MASK))
    lots = [splitmix_output((stream + (i + 1) * 0x9E3779B97F4A7C15) & MASK) for i in range(n)]
    signed = [lot - 2**64 if lot >= 2**63 else lot for lot in lots]
    return sorted(sorted(range(n), key=lambda i: -signed[i])[:count])
