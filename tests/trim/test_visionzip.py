"""Test VisionZip against a loop over tokens, and on cases the published code leaves open."""

import dataclasses

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tests.trim.batches import make
from tests.trim.oracle_baselines import visionzip
from trim import VisionZip, VisualTokens
from trim.visionzip import group_means

DTYPES = {torch.float32: 1e-5, torch.bfloat16: 2**-7, torch.float16: 2**-10}


def from_scores(scores: list[float], keys: list[list[float]], **changed: torch.Tensor) -> VisualTokens:
    """Make one image with this attention and these keys; patch i is the number i, CLS is -1."""
    return VisualTokens(
        patches=torch.arange(len(scores))[None, :, None].float(),
        cls=torch.tensor([[-1.0]]),
        cls_attention=torch.tensor([scores]),
        head_mean_keys=torch.tensor([keys]),
        **changed,
    )


@settings(max_examples=100, derandomize=True)
@given(
    st.integers(0, 10**6),
    st.one_of(st.integers(1, 30), st.sampled_from([49, 100])),
    st.integers(1, 20),
    st.integers(0, 20),
    st.sampled_from(list(DTYPES)),
    st.booleans(),
    st.data(),
)
def test_equals_the_loop_oracle(seed, patches, dominant, contextual, dtype, budgeted, data) -> None:
    x = make(seed, 1, patches, dtype=dtype)
    budget = data.draw(st.integers(1, patches + 2)) if budgeted else None
    args = (t[0].float().numpy() for t in (x.patches, x.cls, x.cls_attention, x.head_mean_keys))
    expected = visionzip(*args, dominant=dominant, contextual=contextual, budget=budget)
    assume(expected.margin > 1e-6)
    if budget is not None:
        x = dataclasses.replace(x, budget=torch.tensor([budget]))
    (reduced,) = VisionZip(dominant, contextual)(x)
    assert reduced.kept.tolist() == expected.kept
    torch.testing.assert_close(
        reduced.tokens.float(), torch.tensor(expected.tokens), rtol=DTYPES[dtype], atol=DTYPES[dtype]
    )


def test_an_example_computed_by_hand() -> None:
    """Patches 1 and 4 are dominant; of 0, 2, 3, 5, 6 the targets are 0 and 3, and 5 and 6 go to 3."""
    right, up = [1.0, 0.0], [0.0, 1.0]
    x = from_scores([0.1, 0.3, 0.1, 0.1, 0.2, 0.1, 0.1], [right, up, right, up, up, up, up])
    (reduced,) = VisionZip(3, 2)(x)
    assert reduced.kept.tolist() == [1, 4]
    assert reduced.tokens[:, 0].tolist() == [-1.0, 1.0, 4.0, 0.0 + 2.0, 3.0 + 5.5]


def test_a_target_without_patches_is_unchanged() -> None:
    right, up = [1.0, 0.0], [0.0, 1.0]
    (reduced,) = VisionZip(1, 2)(from_scores([0.1] * 4, [right, up, up, up]))  # targets 0 and 2
    assert reduced.tokens[:, 0].tolist() == [-1.0, 0.0, 2.0 + 2.0]


def test_equally_near_targets_leave_a_patch_to_the_first() -> None:
    (reduced,) = VisionZip(1, 2)(from_scores([0.1] * 4, [[1.0, 0.0]] * 4))
    assert reduced.tokens[:, 0].tolist() == [-1.0, 0.0 + 2.0, 2.0]


@pytest.mark.parametrize(
    ("budget", "patches_kept", "contextual"),
    [(1, 0, 0), (6, 5, 0), (7, 5, 1), (64, 53, 10), (128, 107, 20), (192, 161, 30), (576, 485, 90)],
)
def test_budget_is_split_in_the_ratio_of_the_parameters(
    budget: int, patches_kept: int, contextual: int
) -> None:
    x = dataclasses.replace(make(1, 1, 576), budget=torch.tensor([budget]))
    (reduced,) = VisionZip()(x)
    assert len(reduced.kept) == patches_kept
    assert len(reduced.tokens) == 1 + patches_kept + contextual == budget
    assert torch.equal(reduced.tokens[0], x.cls[0])
    assert torch.equal(reduced.tokens[1 : 1 + patches_kept], x.patches[0, reduced.kept])


def test_parameters_beyond_the_image_count_as_a_budget() -> None:
    x = make(2, 1, 16)
    (without_budget,) = VisionZip()(x)
    (with_budget,) = VisionZip()(dataclasses.replace(x, budget=torch.tensor([99])))
    assert torch.equal(without_budget.tokens, with_budget.tokens) and len(without_budget.tokens) == 16


@settings(max_examples=50, derandomize=True)
@given(st.integers(0, 10**6), st.integers(1, 70), st.integers(1, 9))
def test_group_means(seed: int, count: int, groups: int) -> None:
    g = torch.Generator().manual_seed(seed)
    x, group = torch.randn(count, 3, generator=g), torch.randint(0, groups, (count,), generator=g)
    means = group_means(x, group, groups)
    for i in range(groups):
        mean = x[group == i].double().mean(0) if (group == i).any() else torch.zeros(3).double()
        torch.testing.assert_close(means[i].double(), mean, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("parameters", [{"dominant": 0}, {"contextual": -1}, {"contextual": 1.5}])
def test_construction_names_the_wrong_parameter(parameters: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(parameters))):
        VisionZip(**parameters)
