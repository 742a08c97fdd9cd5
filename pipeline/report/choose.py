"""Which requests are shown: a seeded sample that prefers failures and disagreements."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.evaluate.metrics.text import vqa_normal
from pipeline.report.rows import Requests
from pipeline.storage.uris import Storage

FAILED, DIFFERS, SAME = "failed", "differs", "same"
KINDS = (FAILED, DIFFERS, SAME)
_SHARES = {FAILED: 0.25, DIFFERS: 0.5, SAME: 0.25}  # of the gallery, where there are enough of each
_EXAMPLES = 5
_SHARDS = 32  # whose images are taken first: an image far down a tar costs as much as the way to it


@dataclass(frozen=True)
class Example:
    """One request that has no answer."""

    arm: str
    status: str
    key: str
    sample_key: str
    question: str
    error: str


@dataclass(frozen=True)
class Sample:
    """The keys to show, best first; how many requests there are of each kind; failures by (arm, status)."""

    keys: list[str]
    kinds: Counter[str]
    examples: dict[tuple[str, str], list[Example]]


@dataclass
class _Lowest:
    """The keys of the lowest ranks seen so far."""

    most: int
    keys: np.ndarray = field(default_factory=lambda: np.array([], object))
    ranks: np.ndarray = field(default_factory=lambda: np.array([]))

    def add(self, keys: np.ndarray, ranks: np.ndarray) -> None:
        self.keys = np.concatenate([self.keys, keys])
        self.ranks = np.concatenate([self.ranks, ranks])
        order = np.argsort(self.ranks, kind="stable")[: self.most]
        self.keys, self.ranks = self.keys[order], self.ranks[order]


def choose(
    requests: Requests, storage: Storage, *, most: int, seed: int, shards: int, first: Sequence[str] = ()
) -> Sample:
    """Sample `most` requests in one pass over all of them.

    A request is failed if any arm has no answer, differs if an arm answers unlike the first, is the same
    otherwise.

    Args:
        shards: how many the plan has.
        first: keys to prefer among those of their kind, as the worst disagreements.
    """
    rng = np.random.default_rng(seed)
    near = rng.permutation(shards)[:_SHARDS]
    lowest = {kind: _Lowest(most) for kind in KINDS}
    found = Sample([], Counter(), {})
    for table in requests.tables(
        ("key", "sample_key", "question"), ("status", "prediction", "error"), storage
    ):
        keys = table["key"].to_numpy(zero_copy_only=False)
        kinds = _kinds(table, requests.arms)
        ranks = rng.random(len(keys)) + _distant(keys, near) - 2 * np.isin(keys, list(first))
        for number, kind in enumerate(KINDS):
            chosen = kinds == number
            found.kinds[kind] += int(chosen.sum())
            lowest[kind].add(keys[chosen], ranks[chosen])
        _add_examples(found.examples, table, requests.arms)
    found.keys.extend(_mixed({kind: list(lowest[kind].keys) for kind in KINDS}, most))
    return found


def _kinds(table: pa.Table, arms: Sequence[str]) -> np.ndarray:
    """Of each row, its kind by its place in KINDS."""
    failed = ~np.logical_and.reduce([_is_ok(table, arm) for arm in arms])
    differs = np.logical_or.reduce(list(differing(table, arms).values()))
    return np.where(failed, 0, np.where(differs, 1, 2))


def differing(table: pa.Table, arms: Sequence[str]) -> dict[str, np.ndarray]:
    """Of each row, whether an arm and the first one both answered, and not alike by VQA's rules."""
    base = table[f"prediction.{arms[0]}"]
    found = {}
    for arm in arms:
        own = table[f"prediction.{arm}"]
        unequal = pc.fill_null(pc.not_equal(own, base), False).to_numpy()
        unequal = unequal & _is_ok(table, arms[0]) & _is_ok(table, arm)
        for row in np.flatnonzero(unequal):
            unequal[row] = vqa_normal(own[row].as_py()) != vqa_normal(base[row].as_py())
        found[arm] = unequal
    return found


def _is_ok(table: pa.Table, arm: str) -> np.ndarray:
    return pc.equal(table[f"status.{arm}"], "ok").to_numpy()


def _distant(keys: np.ndarray, near: np.ndarray) -> np.ndarray:
    """1 for requests of other shards: they are taken only if these have too few, else 0."""
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
    """`most` keys with the kinds' shares; what one kind lacks, the others fill up, failures last.

    The kinds take turns, so that any beginning of the list is mixed, too.
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
