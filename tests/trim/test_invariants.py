"""Test properties of every reducer: those of `conf/reducer`, and some with small token counts."""

import dataclasses

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

import trim
from tests.trim.batches import EVERY, KINDS, configured, fields, make, only
from trim import Full, PruMerge, Reduced, Reducer, VisualTokens

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
quick = settings(max_examples=25, derandomize=True)
every = pytest.mark.parametrize("reducer", EVERY.values(), ids=EVERY)
seeds, kinds, dtypes = st.integers(0, 10**6), st.sampled_from(KINDS), st.sampled_from(DTYPES)
sizes = st.one_of(st.integers(1, 24), st.sampled_from([49, 64, 100]))


def with_budget(x: VisualTokens, seed: int) -> VisualTokens:
    """Add random budgets from 1 to N + 2."""
    images, patches, _ = x.patches.shape
    g = torch.Generator().manual_seed(seed)
    return dataclasses.replace(x, budget=torch.randint(1, patches + 3, (images,), generator=g))


def assert_same(results: list[Reduced], expected: list[Reduced]) -> None:
    for a, b in zip(results, expected, strict=True):
        assert torch.equal(a.kept, b.kept)
        assert torch.equal(a.tokens, b.tokens)


def test_every_class_is_configured() -> None:
    """These tests find reducers by their YAML, so each class needs one."""
    classes = {getattr(trim, name) for name in trim.__all__} - {Reducer}
    reducers = {c for c in classes if hasattr(c, "needs")}
    assert reducers == {type(reducer) for reducer in configured().values()}
    assert {"prumerge", "prumerge_plus", "visionzip", "divprune", "cdpruner"} <= set(configured())


@every
@quick
@given(seeds, st.integers(1, 5), sizes, kinds, dtypes, st.booleans())
@example(1, 4, 1, "normal", torch.float32, True)
@example(2, 3, 576, "normal", torch.float32, False)
@example(3, 3, 576, "ties", torch.bfloat16, True)
def test_output_shapes_dtypes_and_counts(reducer, seed, images, patches, kind, dtype, budgeted) -> None:
    x = make(seed, images, patches, kind, dtype=dtype)
    x = with_budget(x, seed) if budgeted else x
    results = reducer(x)
    assert len(results) == images
    for i, reduced in enumerate(results):
        kept = reduced.kept.tolist()
        assert reduced.tokens.dtype == dtype and reduced.tokens.shape[1:] == x.patches.shape[2:]
        assert reduced.kept.dtype == torch.int64 and reduced.kept.ndim == 1
        assert len(set(kept)) == len(kept) <= len(reduced.tokens)
        assert all(0 <= k < patches for k in kept)
        assert isinstance(reducer, PruMerge) or kept == sorted(kept)
        assert 1 <= len(reduced.tokens) <= patches
        assert reduced.tokens.isfinite().all()
        if budgeted and not isinstance(reducer, Full):
            assert len(reduced.tokens) == min(int(x.budget[i]), patches)


@pytest.mark.slow
@every
@quick
@given(seeds, st.integers(2, 6), sizes, kinds, dtypes, st.booleans(), st.randoms(use_true_random=False))
@example(4, 3, 576, "normal", torch.float32, False, None)
def test_batch_is_bitwise_its_images(reducer, seed, images, patches, kind, dtype, budgeted, order) -> None:
    x = make(seed, images, patches, kind, dtype=dtype, width=5 + seed % 67)
    x = with_budget(x, seed) if budgeted else x
    together = reducer(x)
    assert_same([reducer(only(x, [i]))[0] for i in range(images)], together)
    mixed = list(range(images))[::-1]
    if order is not None:
        order.shuffle(mixed)
    assert_same(reducer(only(x, mixed)), [together[i] for i in mixed])


@every
def test_batch_is_bitwise_its_images_at_any_thread_count(reducer) -> None:
    """The batch is large enough for torch to split its work among threads."""
    x = make(7, 3, 576, width=256)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        together = reducer(x)
        torch.set_num_threads(1)
        assert_same([reducer(only(x, [i]))[0] for i in range(3)], together)
    finally:
        torch.set_num_threads(threads)


@every
def test_layout_in_memory_does_not_matter(reducer) -> None:
    x = make(8, 3, 40, width=33)
    turned = {
        name: t.transpose(0, -1).contiguous().transpose(0, -1) if t.ndim > 1 else t
        for name, t in fields(x).items()
    }
    assert_same(reducer(VisualTokens(**turned)), reducer(x))


@every
@pytest.mark.parametrize("kind", KINDS)
def test_reducers_read_only_their_needs(reducer, kind) -> None:
    x = make(9, 3, 20, kind)
    expected = reducer(x)
    needed = {"patches"} | reducer.needs
    assert_same(reducer(VisualTokens(**{n: t for n, t in fields(x).items() if n in needed})), expected)
    garbage = {
        name: torch.full((1,), -7) if name == "identity" else torch.full((2,), torch.nan)
        for name in fields(x)
        if name not in needed
    }
    assert_same(reducer(dataclasses.replace(x, **garbage)), expected)
    for name in reducer.needs:
        with pytest.raises(ValueError, match=f"VisualTokens.{name} is missing"):
            reducer(dataclasses.replace(x, **{name: None}))


@every
def test_a_field_of_another_shape_is_named(reducer) -> None:
    x = make(10, 3, 20)
    for name in reducer.needs:
        with pytest.raises(ValueError, match=f"VisualTokens.{name} has shape"):
            reducer(dataclasses.replace(x, **{name: getattr(x, name)[:2]}))


@every
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_nan_or_infinite_score_names_its_image(reducer, value) -> None:
    for name in reducer.needs - {"identity", "cls"}:  # these two are not scores
        x = make(11, 4, 20)
        getattr(x, name)[2].view(-1)[3] = value
        with pytest.raises(ValueError, match=f"image 2 .*{name}"):
            reducer(x)


@every
def test_a_budget_below_one_names_its_image(reducer) -> None:
    x = dataclasses.replace(make(12, 3, 20), budget=torch.tensor([4, 0, 2]))
    if isinstance(reducer, Full):
        return
    with pytest.raises(ValueError, match="budget of image 1 is 0"):
        reducer(x)


@every
def test_inputs_are_not_changed(reducer) -> None:
    x = with_budget(make(13, 3, 20), 13)
    copies = {name: t.clone() for name, t in fields(x).items()}
    results = reducer(x)
    for reduced in results:  # results must not share memory with the inputs
        reduced.kept.fill_(0)
    assert all(torch.equal(copies[name], t) for name, t in fields(x).items())


@every
def test_an_empty_batch_gives_an_empty_list(reducer) -> None:
    assert reducer(only(make(14, 2, 20), [])) == []
