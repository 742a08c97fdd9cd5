"""Test CDPruner against determinants computed one by one, and on cases the published code leaves open."""

from itertools import pairwise

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tests.trim.batches import make
from tests.trim.oracle_baselines import cdpruner
from trim import CDPruner, VisualTokens
from trim.cdpruner import greedy_map, relevance
from trim.cosine import cosines


@settings(max_examples=60, derandomize=True)
@given(
    st.integers(0, 10**6),
    st.integers(2, 30),
    st.integers(1, 12),
    st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
)
def test_enlarges_the_determinant_most(seed, patches, num_kept, dtype) -> None:
    num_kept = min(
        num_kept, (patches + 1) // 2
    )  # the choice among the least relevant depends on float32 rounding
    x = make(seed, 1, patches, dtype=dtype, width=30)
    expected, margin = cdpruner(
        x.metric[0].numpy(), x.text[0].float().numpy(), x.embeddings[0].float().numpy(), num_kept
    )
    assume(margin > 1e-4)
    (reduced,) = CDPruner(num_kept)(x)
    assert reduced.kept.tolist() == sorted(expected)
    assert torch.equal(reduced.tokens, x.patches[0, reduced.kept])


def from_relevance(cosine: list[float], embeddings: torch.Tensor) -> VisualTokens:
    """Make one image whose patches have these cosines with the text."""
    c = torch.tensor(cosine)
    metric = torch.stack([c, (1 - c * c).sqrt()], -1)
    return VisualTokens(
        patches=torch.arange(len(c))[None, :, None].float(),
        metric=metric[None],
        text=torch.tensor([[2.0, 0.0]]),
        embeddings=embeddings[None],
    )


def test_the_patches_least_like_the_text_are_the_relevant_ones() -> None:
    x = from_relevance([0.3, 0.1, 0.5, -0.2, 0.4, 0.2], torch.eye(6))
    assert CDPruner(3)(x)[0].kept.tolist() == [1, 3, 5]
    assert CDPruner(3, sign=1)(x)[0].kept.tolist() == [0, 2, 4], "sign=1 reverses the relevance"


def test_similarity_to_a_chosen_patch_lowers_relevance() -> None:
    twin = torch.eye(4)
    twin[1] = torch.tensor([0.99, 0.1411, 0.0, 0.0])
    x = from_relevance([-0.5, -0.45, 0.1, 0.3], twin)
    assert CDPruner(2)(x)[0].kept.tolist() == [0, 2]


@pytest.mark.parametrize("embeddings", [torch.ones(6, 3), torch.zeros(6, 3)])
def test_relevance_decides_among_equal_embeddings(embeddings: torch.Tensor) -> None:
    x = from_relevance([0.3, 0.1, 0.5, -0.2, 0.4, 0.2], embeddings)
    for count, kept in [(1, [3]), (3, [1, 3, 5]), (5, [0, 1, 3, 4, 5]), (6, [0, 1, 2, 3, 4, 5])]:
        assert CDPruner(count)(x)[0].kept.tolist() == kept


def test_a_basis_comes_before_its_combinations() -> None:
    """In two dimensions the third patch adds nothing new, so relevance decides from there."""
    angle = torch.deg2rad(torch.tensor([0.0, 1.0, 2.0, 90.0, 45.0, 30.0]))
    x = from_relevance([-0.9, -0.8, -0.7, 0.2, 0.5, 0.4], torch.stack([angle.cos(), angle.sin()], -1))
    assert CDPruner(2)(x)[0].kept.tolist() == [0, 3]
    assert CDPruner(4)(x)[0].kept.tolist() == [0, 1, 2, 3]


def test_more_patches_than_dimensions_stay_finite() -> None:
    x = make(5, 3, 200, width=2)
    r = relevance(-(torch.rand(3, 200) * 2 - 1))
    picked = greedy_map(r, cosines(x.embeddings)[0], 200)
    assert all(sorted(row) == list(range(200)) for row in picked.tolist())


@pytest.mark.parametrize("cosine", [0.0, 0.3])
def test_diversity_decides_among_equal_relevance(cosine: float) -> None:
    embeddings = torch.eye(3).repeat_interleave(2, 0)
    assert CDPruner(3)(from_relevance([cosine] * 6, embeddings))[0].kept.tolist() == [0, 2, 4]


def test_relevance() -> None:
    scores = relevance(torch.tensor([[-0.5, 0.5, 0.0], [0.2, 0.2, 0.2]]))
    expected = torch.tensor([[1e-6, 1.0, 0.5], [1.0, 1.0, 1.0]]).double()
    torch.testing.assert_close(scores, expected, rtol=0, atol=1e-6)
    assert (scores > 0).all()


def test_a_smaller_choice_is_part_of_a_larger_one() -> None:
    x = make(3, 1, 60)
    kept = [set(CDPruner(k)(x)[0].kept.tolist()) for k in range(1, 61)]
    assert all(a < b for a, b in pairwise(kept))


def test_a_sign_is_plus_or_minus_one() -> None:
    with pytest.raises(ValueError, match="sign must be -1 or 1, not 0"):
        CDPruner(3, sign=0)


@pytest.mark.parametrize("num_kept", [0, -1, 2.5, True, None])
def test_construction_names_the_wrong_parameter(num_kept: object) -> None:
    with pytest.raises(ValueError, match="num_kept"):
        CDPruner(num_kept)
