"""Test Random and Full, the two reducers that do not look at the image."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.trim import oracle
from trim import Full, Random, VisualTokens

INT64 = st.integers(-(2**63), 2**63 - 1)


def batch(identity: list[int], patches: int, budget: list[int] | None = None) -> VisualTokens:
    g = torch.Generator().manual_seed(patches)
    return VisualTokens(
        patches=torch.randn(len(identity), patches, 4, generator=g),
        identity=torch.tensor(identity, dtype=torch.int64),
        budget=None if budget is None else torch.tensor(budget),
    )


@settings(max_examples=100, derandomize=True)
@given(
    st.lists(INT64, min_size=1, max_size=6), st.integers(0, 2**63 - 1), st.integers(1, 80), st.integers(1, 90)
)
def test_random_equals_the_oracle_in_any_batch(identity, seed, patches, num_kept) -> None:
    x = batch(identity, patches)
    for i, reduced in enumerate(Random(num_kept=num_kept, seed=seed)(x)):
        assert reduced.kept.tolist() == oracle.random_choice(seed, identity[i], patches, num_kept)
        assert torch.equal(reduced.tokens, x.patches[i, reduced.kept])


def test_random_depends_on_seed_and_identity() -> None:
    a, b, c = (r.kept.tolist() for r in Random(num_kept=10)(batch([1, 2, 1], 576)))
    (other_seed,) = Random(num_kept=10, seed=1)(batch([1], 576))
    assert a == c and a != b and a != other_seed.kept.tolist()


def test_random_does_not_use_torchs_generator() -> None:
    state = torch.get_rng_state()
    Random(keep_ratio=0.5)(batch([1, 2], 64))
    assert torch.equal(state, torch.get_rng_state())


def test_random_is_uniform_over_places() -> None:
    """4000 draws of 4 from 16: each place expects 1000 with a standard deviation of 27."""
    hits = torch.zeros(16)
    for reduced in Random(num_kept=4)(batch(list(range(4000)), 16)):
        hits[reduced.kept] += 1
    assert hits.min() > 860 and hits.max() < 1140


@pytest.mark.parametrize(("ratio", "expected"), [(0.25, 144), (0.1, 57), (1.0, 576), (0.0001, 1)])
def test_random_ratio(ratio: float, expected: int) -> None:
    assert len(Random(keep_ratio=ratio)(batch([5], 576))[0].kept) == expected


def test_random_budget_overrides_image_by_image() -> None:
    results = Random(keep_ratio=0.5)(batch([1, 2, 3], 20, budget=[1, 7, 99]))
    assert [len(r.tokens) for r in results] == [1, 7, 20]
    full_draw = set(Random(num_kept=12)(batch([2], 20))[0].kept.tolist())
    assert set(results[1].kept.tolist()) < full_draw  # fewer tokens are a subset of more


def test_full_keeps_everything() -> None:
    x = batch([1, 2], 9, budget=[1, 2])
    for patches, reduced in zip(x.patches, Full()(x), strict=True):
        assert reduced.kept.tolist() == list(range(9)) and torch.equal(reduced.tokens, patches)
