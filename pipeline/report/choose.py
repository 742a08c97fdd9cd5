"""Selects the requests to show: a seeded sample that prefers failures and disagreements."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.evaluate.metrics.text import vqa_normal
from pipeline.report.rows import Requests
from pipeline.storage.uris import Storage

FAILED, DIFFERS, SAME = "failed", "differs", "same"
KINDS = (FAILED, DIFFERS, SAME)
Keys = NDArray[np.object_]  # of strings
Mask = NDArray[np.bool_]  # a row each
_SHARES = {FAILED: 0.25, DIFFERS: 0.5, SAME: 0.25}  # of the gallery, if there are enough of each
_EXAMPLES = 5
_SHARDS = 32  # prefer requests from so few shards, since each shard is read from its start


@dataclass(frozen=True)
class Example:
    """Holds one request without an answer."""

    arm: str
    status: str
    key: str
    sample_key: str
    question: str
    error: str


@dataclass(frozen=True)
class Selection:
    """Holds the keys to show, best first; counts of requests by kind; failures by (arm, status)."""

    keys: list[str]
    kinds: Counter[str]
    examples: dict[tuple[str, str], list[Example]]


@dataclass
class _Lowest:
    """Keeps the keys of the lowest ranks so far."""

    most: int
    keys: Keys = field(default_factory=lambda: np.array([], object))
    ranks: NDArray[np.float64] = field(default_factory=lambda: np.array([]))

    def add(self, keys: Keys, ranks: NDArray[np.float64]) -> None:
        self.keys = np.concatenate([self.keys, keys])
        self.ranks = np.concatenate([self.ranks, ranks])
        order = np.argsort(self.ranks, kind="stable")[: self.most]
        self.keys, self.ranks = self.keys[order], self.ranks[order]


def select_requests(
    requests: Requests, storage: Storage, *, most: int, seed: int, shards: int, first: Sequence[str] = ()
) -> Selection:
    """Sample `most` requests in one pass over all of them.

    A request is `failed` if any arm has no answer, `differs` if an arm's answer differs from the first arm's,
    otherwise `same`.

    Args:
        shards: the number of shards in the plan.
        first: keys to prefer within their kind, such as the worst disagreements.
    """
    rng = np.random.default_rng(seed)
    near = rng.permutation(shards)[:_SHARDS]
    lowest = {kind: _Lowest(most) for kind in KINDS}
    selection = Selection([], Counter(), {})
    for table in requests.tables(
        ("key", "sample_key", "question"), ("status", "prediction", "error"), storage
    ):
        keys = table["key"].to_numpy(zero_copy_only=False)
        kinds = _kinds(table, requests.arms)
        ranks = rng.random(len(keys)) + _distant(keys, near) - 2 * np.isin(keys, list(first))
        for number, kind in enumerate(KINDS):
            chosen = kinds == number
            selection.kinds[kind] += int(chosen.sum())
            lowest[kind].add(keys[chosen], ranks[chosen])
        _add_examples(selection.examples, table, requests.arms)
    selection.keys.extend(_mixed({kind: list(lowest[kind].keys) for kind in KINDS}, most))
    return selection


def _kinds(table: pa.Table, arms: Sequence[str]) -> NDArray[np.int64]:
    """Classify each row, as an index into KINDS."""
    failed = ~np.logical_and.reduce([_is_ok(table, arm) for arm in arms])
    differs = np.logical_or.reduce(list(differing(table, arms).values()))
    return np.where(failed, 0, np.where(differs, 1, 2))


def differing(table: pa.Table, arms: Sequence[str]) -> dict[str, Mask]:
    """Find, by arm, the rows whose answer differs from the first arm's by VQA's rules; both must be ok."""
    base = table[f"prediction.{arms[0]}"]
    differs = {}
    for arm in arms:
        predictions = table[f"prediction.{arm}"]
        unequal = pc.fill_null(pc.not_equal(predictions, base), False).to_numpy()
        unequal = unequal & _is_ok(table, arms[0]) & _is_ok(table, arm)
        for row in np.flatnonzero(unequal):
            unequal[row] = vqa_normal(predictions[row].as_py()) != vqa_normal(base[row].as_py())
        differs[arm] = unequal
    return differs


def _is_ok(table: pa.Table, arm: str) -> Mask:
    return np.asarray(pc.equal(table[f"status.{arm}"], "ok").to_numpy())


def _distant(keys: Keys, near: NDArray[np.int64]) -> Mask:
    """Tell whether a request lies beyond the near shards: it is chosen only if these have too few."""
    shards = np.fromiter((int(key.split("-", 1)[0]) for key in keys), np.int64, len(keys))
    return np.isin(shards, near, invert=True)


def _add_examples(
    examples: dict[tuple[str, str], list[Example]], table: pa.Table, arms: Sequence[str]
) -> None:
    for arm in arms:
        failed = table.filter(pc.not_equal(table[f"status.{arm}"], "ok"))
        for status in pc.unique(failed[f"status.{arm}"]).to_pylist():
            named = examples.setdefault((arm, status), [])
            rows = failed.filter(pc.equal(failed[f"status.{arm}"], status)).slice(0, _EXAMPLES - len(named))
            for row in rows.to_pylist():
                named.append(
                    Example(
                        arm, status, row["key"], row["sample_key"], row["question"], row[f"error.{arm}"] or ""
                    )
                )


def _mixed(by_kind: dict[str, list[str]], most: int) -> list[str]:
    """Take `most` keys by the kinds' shares; if a kind has too few, others fill up, failures last.

    The kinds alternate, so that any beginning of the list is mixed, too.
    """
    quota = {kind: min(len(keys), round(_SHARES[kind] * most)) for kind, keys in by_kind.items()}
    for kind in (DIFFERS, SAME, FAILED):
        quota[kind] += min(len(by_kind[kind]) - quota[kind], most - sum(quota.values()))
    turns = [
        ((number + 0.5) / quota[kind], place, key)
        for place, kind in enumerate(KINDS)
        for number, key in enumerate(by_kind[kind][: quota[kind]])
    ]
    return [key for _, _, key in sorted(turns)]
