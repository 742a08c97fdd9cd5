"""Test TRIM's properties, and its choices against the loop oracle."""

import dataclasses

import pytest
import torch
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from tests.trim import oracle
from trim import Trim, VisualTokens
from trim.trim import text_scores

DTYPES = {torch.float16: 2**-10, torch.bfloat16: 2**-7, torch.float32: 1e-5}
BASES = [
    {},
    {"keep_ratio": 0.3},
    {"num_kept": 7},
    {"num_kept": 5000},
    {"keep_ratio": 0.01},
    {"iqr_factor": 0.0},
]
quick = settings(max_examples=120, derandomize=True)


def batch(
    seed: int, images: int, patches: int, *, width: int = 8, dtype: torch.dtype = torch.float32
) -> VisualTokens:
    g = torch.Generator().manual_seed(seed)
    return VisualTokens(
        patches=torch.randn(images, patches, width, generator=g).to(dtype),
        metric=torch.randn(images, patches, 12, generator=g),
        text=torch.randn(images, 12, generator=g),
    )


def from_scores(scores: list[float], **fields: torch.Tensor) -> VisualTokens:
    """Make one image whose dot products are exactly `scores`; patch i is the vector (i, i)."""
    n = len(scores)
    patches = torch.arange(n, dtype=torch.float32)[None, :, None].expand(1, n, 2)
    return VisualTokens(
        patches=patches, metric=torch.tensor(scores)[None, :, None], text=torch.ones(1, 1), **fields
    )


def alone(x: VisualTokens, i: int) -> VisualTokens:
    fields = {
        f: None if (t := getattr(x, f)) is None else t[i : i + 1]
        for f in ("patches", "metric", "text", "budget")
    }
    return VisualTokens(**fields)


reducers = st.builds(
    lambda base, **options: Trim(**base, **options),
    st.sampled_from(BASES),
    sign=st.sampled_from([-1, 1]),
    normalize=st.booleans(),
    aggregate=st.booleans(),
)
sizes = st.one_of(st.integers(1, 40), st.sampled_from([49, 256, 575, 576, 1024]))


@quick
@given(reducers, st.integers(0, 10**6), sizes, st.sampled_from(list(DTYPES)), st.booleans(), st.data())
def test_equals_the_loop_oracle(reducer, seed, patches, dtype, with_budget, data) -> None:
    x = batch(seed, 1, patches, dtype=dtype)
    budget = data.draw(st.integers(1, patches + 2)) if with_budget else None
    if budget is not None:
        x = VisualTokens(x.patches, x.metric, x.text, budget=torch.tensor([budget]))
    settings_of = dataclasses.asdict(reducer)
    expected = oracle.trim(
        x.patches[0].float().numpy(), x.metric[0].numpy(), x.text[0].numpy(), budget=budget, **settings_of
    )
    assume(expected.margin > 1e-5)
    (reduced,) = reducer(x)
    assert reduced.kept.tolist() == expected.kept
    assert reduced.tokens.dtype == dtype and reduced.kept.dtype == torch.int64
    torch.testing.assert_close(
        reduced.tokens.float(), torch.tensor(expected.tokens), rtol=DTYPES[dtype], atol=DTYPES[dtype] * 1e-1
    )
    assert torch.equal(reduced.tokens[: len(expected.kept)], x.patches[0, expected.kept])


@quick
@given(
    reducers, st.integers(0, 10**6), st.integers(2, 9), sizes, st.sampled_from(list(DTYPES)), st.booleans()
)
@example(Trim(), 1, 9, 1024, torch.float32, False)
def test_batch_is_bitwise_its_images(reducer, seed, images, patches, dtype, with_budget) -> None:
    # Widths that fill no vector register evenly, and large enough for torch to split work among threads.
    x = batch(seed, images, patches, width=37 + seed % 100, dtype=dtype)
    if with_budget:
        budget = torch.randint(1, patches + 2, (images,), generator=torch.Generator().manual_seed(seed))
        x = VisualTokens(x.patches, x.metric, x.text, budget=budget)
    for i, together in enumerate(reducer(x)):
        (single,) = reducer(alone(x, i))
        assert torch.equal(together.kept, single.kept)
        assert torch.equal(together.tokens, single.tokens)


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize(("patches", "width"), [(1, 768), (7, 33), (49, 100), (576, 768)])
def test_scores_are_bitwise_those_of_each_image_alone(patches: int, width: int, normalize: bool) -> None:
    """Scores show differences in the last bit that the choice made from them hides."""
    g = torch.Generator().manual_seed(patches)
    metric, text = torch.randn(8, patches, width, generator=g), torch.randn(8, width, generator=g)
    together = text_scores(metric, text, normalize)
    for i in range(8):
        assert torch.equal(together[i], text_scores(metric[i : i + 1], text[i : i + 1], normalize)[0])
    strided = metric.transpose(0, 1).contiguous().transpose(0, 1)  # the same values in another memory layout
    assert torch.equal(together, text_scores(strided, text, normalize))


def test_batch_is_bitwise_its_images_at_clip_size_and_any_thread_count() -> None:
    g = torch.Generator().manual_seed(5)
    x = VisualTokens(
        patches=torch.randn(6, 576, 1024, generator=g),
        metric=torch.randn(6, 576, 768, generator=g) * 0.2,
        text=torch.randn(6, 768, generator=g),
    )
    together = Trim()(x)
    assert any(len(t.kept) for t in together)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        for i, reduced in enumerate(together):
            (single,) = Trim()(alone(x, i))
            assert torch.equal(reduced.kept, single.kept) and torch.equal(reduced.tokens, single.tokens)
    finally:
        torch.set_num_threads(threads)


@quick
@given(reducers, st.integers(0, 10**6), st.integers(1, 4), sizes)
def test_kept_patches_and_their_mean_cover_the_image(reducer, seed, images, patches) -> None:
    x = batch(seed, images, patches)
    for i, reduced in enumerate(reducer(x)):
        count = len(reduced.kept)
        assert reduced.kept.tolist() == sorted(set(reduced.kept.tolist()))
        assert 1 <= len(reduced.tokens) == count + (reducer.aggregate and count < patches)
        if reducer.aggregate and count < patches:
            total = reduced.tokens[:-1].double().sum(0) + reduced.tokens[-1].double() * (patches - count)
            torch.testing.assert_close(total, x.patches[i].double().sum(0), rtol=1e-4, atol=1e-3)


@quick
@given(st.integers(1, 30), st.integers(1, 40), st.booleans())
def test_budget_is_the_exact_number_of_tokens(patches, budget, aggregate) -> None:
    x = from_scores([float((i * 7) % patches) for i in range(patches)], budget=torch.tensor([budget]))
    for reducer in (Trim(aggregate=aggregate), Trim(num_kept=3, aggregate=aggregate)):
        (reduced,) = reducer(x)
        assert len(reduced.tokens) == min(budget, patches)
        if aggregate and budget == 1 < patches:
            assert reduced.kept.tolist() == []


@pytest.mark.parametrize("patches", [1, 2, 9, 576])
def test_equal_scores_have_no_outlier(patches: int) -> None:
    x = from_scores([0.1] * patches)
    (mean,) = Trim()(x)
    assert mean.kept.tolist() == [] and mean.tokens.tolist() == [[(patches - 1) / 2] * 2]
    (best,) = Trim(aggregate=False)(x)
    assert best.kept.tolist() == [0] and best.tokens.tolist() == [[0.0, 0.0]]


@pytest.mark.parametrize(("patches", "outliers"), [(196, 27), (625, 29), (729, 23), (729, 46), (841, 31)])
def test_no_outlier_is_lost_to_rounding(patches: int, outliers: int) -> None:
    """The published code keeps one patch less at these numbers."""
    assert int(patches * (outliers / patches)) == outliers - 1
    scores = [-5.0 - 0.01 * n for n in range(outliers)] + [0.0] * (patches - outliers)
    (reduced,) = Trim()(from_scores(scores))
    assert reduced.kept.tolist() == list(range(outliers))
    assert len(reduced.tokens) == outliers + 1


def test_all_patches_may_stay() -> None:
    """The published code crashes: there is nothing left to average."""
    (reduced,) = Trim(keep_ratio=1.0)(from_scores([0.0, 1.0, 2.0]))
    assert (reduced.kept.tolist(), len(reduced.tokens)) == ([0, 1, 2], 3)


def test_without_outliers_the_best_patch_replaces_the_mean() -> None:
    (reduced,) = Trim(aggregate=False, iqr_factor=1000.0)(from_scores([0.3, 0.1, 0.2, 0.4]))
    assert reduced.kept.tolist() == [1]  # the lowest score, because sign is -1
    (reduced,) = Trim(aggregate=False, iqr_factor=1000.0, sign=1)(from_scores([0.3, 0.1, 0.2, 0.4]))
    assert reduced.kept.tolist() == [3]


def test_ties_go_to_the_lower_index() -> None:
    (reduced,) = Trim(num_kept=3)(from_scores([1.0, 0.0, 1.0, 1.0, 0.0, 1.0]))
    assert reduced.kept.tolist() == [0, 1, 4]


def test_a_score_on_the_fence_is_not_an_outlier() -> None:
    scores = [0.0, 0.0, 0.0, 1.0, 2.0]  # Q3 is the fourth score; with factor 0 the fence is Q3 itself
    (reduced,) = Trim(sign=1, iqr_factor=0.0)(from_scores(scores))
    assert reduced.kept.tolist() == [4]


def test_ranks_where_the_softmax_underflows() -> None:
    (reduced,) = Trim(num_kept=3)(from_scores([0.0, 900.0, 500.0, 400.0, 800.0]))
    assert reduced.kept.tolist() == [0, 2, 3]


def test_sign_and_normalize_change_the_choice() -> None:
    metric = torch.tensor([[[10.0, 10.0], [1.0, 0.0], [-1.0, 0.0], [0.0, 1.0]]])
    x = VisualTokens(patches=torch.zeros(1, 4, 2), metric=metric, text=torch.tensor([[1.0, 0.0]]))
    chosen = {
        (s, n): Trim(num_kept=1, sign=s, normalize=n)(x)[0].kept.item()
        for s in (-1, 1)
        for n in (False, True)
    }
    assert chosen == {(-1, False): 2, (-1, True): 2, (1, False): 0, (1, True): 1}


def test_cosine_of_a_zero_vector_is_zero() -> None:
    x = VisualTokens(patches=torch.ones(1, 3, 2), metric=torch.zeros(1, 3, 4), text=torch.zeros(1, 4))
    (reduced,) = Trim(normalize=True)(x)
    assert reduced.kept.tolist() == [] and reduced.tokens.tolist() == [[1.0, 1.0]]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("field", ["metric", "text"])
def test_a_nan_or_infinite_score_names_its_image(value: float, field: str) -> None:
    x = batch(0, 4, 10)
    getattr(x, field)[2].view(-1)[3] = value
    with pytest.raises(ValueError, match="image 2"):
        Trim()(x)


def test_mean_of_half_precision_patches_is_accumulated_in_float32() -> None:
    """In float16 a sum of 1024 patches of 100 overflows; in bfloat16 it stops growing."""
    for dtype in (torch.float16, torch.bfloat16):
        x = VisualTokens(
            patches=torch.full((1, 1024, 4), 100.0, dtype=dtype),
            metric=torch.ones(1, 1024, 2),
            text=torch.ones(1, 2),
        )
        assert Trim()(x)[0].tokens.tolist() == [[100.0] * 4]


def test_kept_patches_with_infinities_do_not_reach_the_mean() -> None:
    x = from_scores([0.0, 1.0, 2.0])
    patches = x.patches.clone()
    patches[0, 0] = float("inf")
    (reduced,) = Trim(num_kept=1)(VisualTokens(patches, x.metric, x.text))
    assert reduced.tokens.tolist() == [[float("inf")] * 2, [1.5, 1.5]]


def test_inputs_are_not_changed() -> None:
    x = batch(3, 3, 20)
    copies = [t.clone() for t in (x.patches, x.metric, x.text)]
    for reducer in (Trim(), Trim(normalize=True, aggregate=False)):
        reducer(x)
    assert all(torch.equal(a, b) for a, b in zip(copies, (x.patches, x.metric, x.text), strict=True))


def test_an_empty_batch_gives_an_empty_list() -> None:
    assert Trim()(batch(0, 0, 5)) == []
