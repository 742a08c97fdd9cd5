"""Slow, plain versions of the published baselines: one image, one patch at a time.

Float64 and plain Python throughout, sharing no code with the package. `margin` is the distance to the nearest
different answer, so that a test can skip inputs whose answer depends on the last bit of a float32.
"""

import math

import numpy as np

from tests.trim.oracle import Answer, outliers


def unit(rows: np.ndarray) -> np.ndarray:
    rows = rows.astype(np.float64)
    return np.stack([row / (np.linalg.norm(row) or 1.0) for row in rows])


def prumerge_choice(a: list[float], plus: bool, budget: int | None) -> tuple[list[int], float]:
    """Choose the kept patches in order, and measure how near the attention is to the fence."""
    n = len(a)
    order = sorted(range(n), key=lambda i: (-a[i], i))
    count, margin = outliers(a, 1.5)
    room = n + 1 if budget is None else budget if budget >= n else budget - 1
    if not plus:
        return (order[:count] if budget is None else order[:room]), margin
    kept = order[: min(count, room)]
    step = max(1, int(int(1 / (max(1, count) / n)) / 3))
    grid = [i for i in range(0, n - 1, step) if i not in kept]
    if len(grid) > room - len(kept):
        remaining = room - len(kept)
        grid = [grid[place * len(grid) // remaining] for place in range(remaining)]
    kept = kept + grid
    if budget is not None:
        kept += [i for i in order if i not in kept][: room - len(kept)]
    return kept, margin


def prumerge(
    patches: np.ndarray,
    attention: np.ndarray,
    keys: np.ndarray,
    *,
    plus: bool = False,
    neighbours: int = 32,
    budget: int | None = None,
) -> Answer:
    n = len(patches)
    x, a, k = patches.astype(np.float64), attention.astype(np.float64), unit(keys)
    kept, margin = prumerge_choice(a.tolist(), plus, budget)
    tokens = []
    for i in kept:
        other_patches = [j for j in range(n) if j != i]
        cosine = {j: float(k[i] @ k[j]) for j in other_patches}
        other_patches.sort(key=lambda j: (-cosine[j], j))
        near = other_patches[:neighbours]
        if len(near) < len(other_patches):
            margin = min(margin, cosine[near[-1]] - cosine[other_patches[neighbours]])
        token = x[i].copy()
        for j in near:
            token += a[j] * x[j]
        tokens.append(token.tolist())
    pruned = [j for j in range(n) if j not in kept]
    if pruned:
        tokens.append(sum(a[j] * x[j] for j in pruned).tolist())
    return Answer(kept, tokens, margin)


def visionzip(
    patches: np.ndarray,
    cls: np.ndarray,
    attention: np.ndarray,
    keys: np.ndarray,
    *,
    dominant: int,
    contextual: int,
    budget: int | None = None,
) -> Answer:
    n = len(patches)
    x, k = patches.astype(np.float64), unit(keys)
    if budget is not None or dominant + contextual > n:
        total = n if budget is None else min(budget, n)
        contextual = total * contextual // (dominant + contextual)
        dominant = total - contextual
    order = sorted(range(n), key=lambda i: (-float(attention[i]), i))
    kept = sorted(order[: dominant - 1])
    unkept = [i for i in range(n) if i not in kept]
    step = max(1, len(unkept) // contextual) if contextual else 1
    targets = [unkept[place * step] for place in range(contextual)]
    assigned: dict[int, list[int]] = {t: [] for t in targets}
    margin = math.inf
    for i in [i for i in unkept if i not in targets] if targets else []:
        cosine = [float(k[i] @ k[t]) for t in targets]
        best, *lower = sorted(cosine, reverse=True)
        margin = min(margin, best - lower[0]) if lower else margin
        assigned[targets[cosine.index(best)]].append(i)
    tokens = [cls.astype(np.float64).tolist(), *(x[i].tolist() for i in kept)]
    for t in targets:
        mean = sum(x[i] for i in assigned[t]) / len(assigned[t]) if assigned[t] else 0 * x[t]
        tokens.append((x[t] + mean).tolist())
    return Answer(kept, tokens, margin)


def divprune(embeddings: np.ndarray, count: int) -> tuple[list[int], float]:
    """Choose patches in order; returns them and the margin.

    Two patches that are each other's nearest tie exactly in any computation, so they leave the margin alone.
    """
    e, n = unit(embeddings), len(embeddings)
    count, margin = min(count, n), math.inf
    chosen: list[int] = []
    for _ in range(count):
        distance = {}
        for i in [i for i in range(n) if i not in chosen]:
            against = chosen or [j for j in range(n) if j != i]
            distance[i] = min((1 - float(e[i] @ e[j]) for j in against), default=0.0)
        ranked = sorted(distance, key=lambda i: (-distance[i], i))
        if len(ranked) > 1:
            gap = distance[ranked[0]] - distance[ranked[1]]
            margin = min(margin, gap) if gap > 0 else margin
        chosen.append(ranked[0])
    return chosen, margin


def cdpruner(
    metric: np.ndarray, text: np.ndarray, embeddings: np.ndarray, count: int
) -> tuple[list[int], float]:
    """Choose like `divprune`, computing each candidate's determinant anew and r as published."""
    n = len(metric)
    cosine = -unit(metric) @ unit(text[None])[0]
    r = (cosine - cosine.min() + 1e-6) / (cosine.max() - cosine.min())
    e = unit(embeddings)
    kernel = r[:, None] * (e @ e.T) * r
    chosen: list[int] = []
    margin = math.inf
    for _ in range(min(count, n)):
        volume = {}
        for i in [i for i in range(n) if i not in chosen]:
            candidates = [*chosen, i]
            volume[i] = np.linalg.slogdet(kernel[np.ix_(candidates, candidates)])[1]
        ranked = sorted(volume, key=lambda i: (-volume[i], i))
        if len(ranked) > 1:
            margin = min(margin, volume[ranked[0]] - volume[ranked[1]])
        chosen.append(ranked[0])
    return chosen, margin
