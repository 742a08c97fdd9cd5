"""Test DivPrune against a brute-force greedy choice, and on cases the published code leaves open."""

from itertools import pairwise

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tests.trim.batches import make
from tests.trim.oracle_baselines import divprune
from trim import DivPrune, VisualTokens
from trim.cosine import cosines
from trim.divprune import pick_farthest


@settings(max_examples=80, derandomize=True)
@given(
    st.integers(0, 10**6),
    st.integers(1, 30),
    st.integers(1, 32),
    st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
)
def test_equals_the_brute_force_choice(seed, patches, num_kept, dtype) -> None:
    x = make(seed, 1, patches, dtype=dtype)
    expected, margin = divprune(x.embeddings[0].float().numpy(), num_kept)
    assume(margin > 1e-6)
    (reduced,) = DivPrune(num_kept)(x)
    assert reduced.kept.tolist() == sorted(expected)
    assert torch.equal(reduced.tokens, x.patches[0, reduced.kept])


def test_order_of_choice() -> None:
    """Vectors by degrees: 90's neighbour is farthest, then always the patch farthest from the chosen ones."""
    angle = torch.deg2rad(torch.tensor([0.0, 10.0, 20.0, 90.0, 130.0, 165.0]))
    embeddings = torch.stack([angle.cos(), angle.sin()], -1)[None]
    assert pick_farthest(cosines(embeddings)[0], 6).tolist() == [[3, 0, 5, 4, 2, 1]]


def test_distinct_patches_come_before_duplicates() -> None:
    embeddings = torch.eye(4).repeat_interleave(3, 0)[None]
    x = VisualTokens(patches=torch.zeros(1, 12, 2), embeddings=embeddings)
    assert DivPrune(4)(x)[0].kept.tolist() == [0, 3, 6, 9]
    assert DivPrune(6)(x)[0].kept.tolist() == [0, 1, 2, 3, 6, 9]


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_equal_embeddings_keep_the_first(value: float) -> None:
    x = VisualTokens(patches=torch.zeros(2, 9, 2), embeddings=torch.full((2, 9, 3), value))
    assert [r.kept.tolist() for r in DivPrune(3)(x)] == [[0, 1, 2]] * 2


def test_a_smaller_choice_is_part_of_a_larger_one() -> None:
    x = make(3, 1, 60)
    kept = [set(DivPrune(k)(x)[0].kept.tolist()) for k in range(1, 61)]
    assert all(a < b for a, b in pairwise(kept))


@pytest.mark.parametrize("num_kept", [0, -1, 2.5, True, None])
def test_construction_names_the_wrong_parameter(num_kept: object) -> None:
    with pytest.raises(ValueError, match="num_kept"):
        DivPrune(num_kept)
