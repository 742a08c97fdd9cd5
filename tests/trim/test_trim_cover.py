"""Test TrimCover: as many patches as TRIM, chosen without near-duplicates."""

import pytest
import torch

from tests.trim.batches import make
from trim import Trim, TrimCover, VisualTokens


def three_alike() -> VisualTokens:
    """Make three equal best patches, a different one nearly as good, and a poor one."""
    metric = torch.tensor([[3.0], [3.0], [3.0], [2.5], [-1.0]])
    patches = torch.tensor([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [-1.0, 1.0]])
    return VisualTokens(patches=patches[None], metric=metric[None], text=torch.ones(1, 1))


def test_equal_patches_are_kept_once() -> None:
    x = three_alike()
    assert Trim(sign=1, num_kept=2)(x)[0].kept.tolist() == [0, 1]
    assert TrimCover(diversity=1.0, sign=1, num_kept=2)(x)[0].kept.tolist() == [0, 3]


def test_relevance_still_counts() -> None:
    """A repetition costs at most log(1e-3), so with little diversity it is worth it."""
    x = three_alike()
    assert TrimCover(diversity=0.01, sign=1, num_kept=2)(x)[0].kept.tolist() == [0, 1]
    assert TrimCover(diversity=0.5, sign=1, num_kept=3)(x)[0].kept.tolist() == [0, 1, 3]


@pytest.mark.parametrize("sign", [-1, 1])
@pytest.mark.parametrize("aggregate", [True, False])
def test_without_diversity_it_is_trim(sign: int, aggregate: bool) -> None:
    x = make(4, 3, 50)
    ours = TrimCover(diversity=0.0, sign=sign, aggregate=aggregate)(x)
    for reduced, expected in zip(ours, Trim(sign=sign, aggregate=aggregate)(x), strict=True):
        assert reduced.kept.tolist() == expected.kept.tolist()
        assert torch.equal(reduced.tokens, expected.tokens)


def test_as_many_are_kept_as_trim_keeps() -> None:
    x = make(5, 6, 80)
    kept = [len(item.tokens) for item in TrimCover(diversity=3.0)(x)]
    assert kept == [len(item.tokens) for item in Trim()(x)]
    assert len(set(kept)) > 1


@pytest.mark.parametrize("diversity", [-1.0, float("nan"), float("inf")])
def test_construction_names_the_wrong_parameter(diversity: float) -> None:
    with pytest.raises(ValueError, match="diversity must be finite"):
        TrimCover(diversity=diversity)
