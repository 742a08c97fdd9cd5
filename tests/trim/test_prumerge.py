"""Test PruMerge and PruMerge+ against a loop over tokens, and on cases the published code leaves open."""

from itertools import pairwise

import pytest
import torch
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from tests.trim.batches import make
from tests.trim.oracle_baselines import prumerge
from trim import PruMerge, VisualTokens
from trim.prumerge import grid, thin

DTYPES = {torch.float32: 1e-5, torch.bfloat16: 2**-7, torch.float16: 2**-10}


def from_scores(scores: list[float], **changed: torch.Tensor) -> VisualTokens:
    """Make one image with this attention.

    Patch i is the vector (i + 1, 1), its key the direction at i degrees.
    """
    place = torch.arange(len(scores)).float()
    angle = torch.deg2rad(place)
    return VisualTokens(
        patches=torch.stack([place + 1, torch.ones_like(place)], -1)[None],
        last_cls_attention=torch.tensor([scores]),
        last_keys=torch.stack([angle.cos(), angle.sin()], -1)[None],
        **changed,
    )


@settings(max_examples=100, derandomize=True)
@given(
    st.integers(0, 10**6),
    st.one_of(st.integers(1, 30), st.sampled_from([49, 100])),
    st.booleans(),
    st.sampled_from([1, 3, 32]),
    st.sampled_from(list(DTYPES)),
    st.booleans(),
    st.data(),
)
def test_equals_the_loop_oracle(seed, patches, plus, neighbours, dtype, budgeted, data) -> None:
    x = make(seed, 1, patches, dtype=dtype)
    budget = data.draw(st.integers(1, patches + 2)) if budgeted else None
    args = (t[0].float().numpy() for t in (x.patches, x.last_cls_attention, x.last_keys))
    expected = prumerge(*args, plus=plus, neighbours=neighbours, budget=budget)
    assume(expected.margin > 1e-6)
    budget_B = None if budget is None else torch.tensor([budget])
    x = VisualTokens(
        x.patches, last_cls_attention=x.last_cls_attention, last_keys=x.last_keys, budget=budget_B
    )
    (reduced,) = PruMerge(plus, neighbours)(x)
    assert reduced.kept.tolist() == expected.kept
    torch.testing.assert_close(
        reduced.tokens.float(), torch.tensor(expected.tokens), rtol=DTYPES[dtype], atol=DTYPES[dtype]
    )


def test_neighbours_and_pruned_patches_are_weighted_sums() -> None:
    (reduced,) = PruMerge(neighbours=2)(from_scores([0.1, 0.1, 0.5, 0.1, 0.1]))
    # Token 0: the third patch and its neighbours on both sides. Token 1: the four pruned patches.
    assert reduced.kept.tolist() == [2]
    expected = torch.tensor([[3 + 0.1 * (2 + 4), 1 + 0.2], [0.1 * (1 + 2 + 4 + 5), 0.4]])
    torch.testing.assert_close(reduced.tokens, expected)


def test_kept_patches_are_neighbours_too() -> None:
    scores = [0.0] * 20
    scores[4], scores[5] = 0.3, 0.6
    (reduced,) = PruMerge(neighbours=2)(from_scores(scores))
    assert reduced.kept.tolist() == [5, 4]  # descending attention
    torch.testing.assert_close(reduced.tokens[:2, 0], torch.tensor([6 + 0.3 * 5, 5 + 0.6 * 6]))


def test_without_outliers() -> None:
    scores = [0.1] * 9
    (reduced,) = PruMerge()(from_scores(scores))
    assert reduced.kept.tolist() == []
    torch.testing.assert_close(reduced.tokens, torch.tensor([[4.5, 0.9]]))
    (reduced,) = PruMerge(plus=True)(from_scores(scores))
    assert reduced.kept.tolist() == [0, 3, 6]  # the grid of a single outlier: int(9 / 3)


def test_one_patch() -> None:
    for plus in (False, True):
        (reduced,) = PruMerge(plus)(from_scores([0.5]))
        assert reduced.kept.tolist() == [] and reduced.tokens.tolist() == [[0.5, 0.5]]
        (reduced,) = PruMerge(plus)(from_scores([0.5], budget=torch.tensor([1])))
        assert reduced.kept.tolist() == [0] and reduced.tokens.tolist() == [[1.0, 1.0]]  # nothing to merge


def test_no_merged_token_without_pruned_patches() -> None:
    (reduced,) = PruMerge(neighbours=1)(from_scores([0.1, 0.4, 0.2], budget=torch.tensor([9])))
    assert reduced.kept.tolist() == [1, 2, 0] and len(reduced.tokens) == 3


def test_equal_attention_keeps_the_lower_index_first() -> None:
    (reduced,) = PruMerge()(from_scores([0.0, 0.2, 0.0, 0.2, 0.0, 0.2], budget=torch.tensor([3])))
    assert reduced.kept.tolist() == [1, 3]


@pytest.mark.parametrize(
    ("patches", "outliers", "expected"),
    [
        (576, 77, list(range(0, 575, 2))),
        (576, 1, [0, 192, 384]),
        (576, 0, [0, 192, 384]),
        (576, 144, list(range(575))),
        (1, 0, []),
    ],
)
def test_grid(patches: int, outliers: int, expected: list[int]) -> None:
    assert grid(patches, outliers, torch.device("cpu")).tolist() == expected


@settings(max_examples=50, derandomize=True)
@given(st.integers(0, 40), st.integers(0, 50))
@example(10, 3)
def test_thin(length: int, count: int) -> None:
    places = thin(torch.arange(length), count).tolist()
    assert len(places) == min(length, count) and places == sorted(set(places))
    steps = {b - a for a, b in pairwise(places)}
    assert len(steps) <= 2 and (not places or places[0] == 0)


def test_plus_fills_a_budget_in_order() -> None:
    scores = [i / 1000 for i in range(30)]
    scores[9], scores[21] = 0.5, 0.4
    # r = 2 / 30, so every fifth patch; 25 is the last
    for budget, kept in [
        (2, [9]),
        (3, [9, 21]),
        (6, [9, 21, 0, 10, 20]),
        (9, [9, 21, 0, 5, 10, 15, 20, 25]),
        (11, [9, 21, 0, 5, 10, 15, 20, 25, 29, 28]),
    ]:
        (reduced,) = PruMerge(plus=True)(from_scores(scores, budget=torch.tensor([budget])))
        assert reduced.kept.tolist() == kept and len(reduced.tokens) == budget


def test_sums_of_half_precision_patches_are_accumulated_in_float32() -> None:
    for dtype in (torch.float16, torch.bfloat16):
        x = VisualTokens(
            patches=torch.full((1, 1024, 2), 100.0, dtype=dtype),
            last_cls_attention=torch.full((1, 1024), 2.0**-10, dtype=dtype),
            last_keys=torch.ones(1, 1024, 3, dtype=dtype),
        )
        assert PruMerge()(x)[0].tokens.tolist() == [[100.0, 100.0]]


def test_infinite_patches_change_only_tokens_they_are_merged_into() -> None:
    x = from_scores([0.1, 0.1, 0.1, 0.5, 0.1, 0.1, 0.1])
    x.patches[0, 0] = float("inf")
    (reduced,) = PruMerge(neighbours=2)(x)
    assert (
        reduced.kept.tolist() == [3]
        and reduced.tokens[0].isfinite().all()
        and reduced.tokens[1].isinf().all()
    )


@pytest.mark.parametrize(
    "parameters", [{"plus": 1}, {"neighbours": 0}, {"neighbours": 2.5}, {"neighbours": True}]
)
def test_construction_names_the_wrong_parameter(parameters: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(parameters))):
        PruMerge(**parameters)
