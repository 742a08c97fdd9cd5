"""Test the public API: names, needs, validation, device and dtype."""

import dataclasses
import inspect

import pytest
import torch

import trim
from trim import (
    CDPruner,
    DivPrune,
    Full,
    PruMerge,
    Random,
    Reduced,
    Reducer,
    Trim,
    TrimCover,
    VisionZip,
    VisualTokens,
)

EVERY = [
    Full(),
    Random(keep_ratio=0.5),
    Trim(),
    Trim(keep_ratio=0.5),
    Trim(aggregate=False),
    Trim(normalize=True),
    PruMerge(),
    PruMerge(plus=True),
    VisionZip(2, 1),
    DivPrune(3),
    CDPruner(3),
    TrimCover(),
]


def full_batch(
    dtype: torch.dtype = torch.float32, device: str = "cpu", **changed: torch.Tensor | None
) -> VisualTokens:
    fields = {
        "patches": torch.ones(2, 5, 3, dtype=dtype, device=device),
        "metric": torch.arange(40.0, device=device).view(2, 5, 4),
        "text": torch.ones(2, 4, device=device),
        "identity": torch.tensor([3, 4], device=device),
        "cls": torch.ones(2, 3, dtype=dtype, device=device),
        "cls_attention": torch.arange(10, device=device).to(dtype).view(2, 5),
        "head_mean_keys": torch.arange(20, device=device).to(dtype).view(2, 5, 2),
        "last_cls_attention": torch.arange(10, device=device).to(dtype).view(2, 5),
        "last_keys": torch.arange(30, device=device).to(dtype).view(2, 5, 3),
        "embeddings": torch.arange(60, device=device).to(dtype).view(2, 5, 6),
    }
    return VisualTokens(**(fields | changed))


def test_exported_names() -> None:
    assert trim.__all__ == [
        *("CDPruner", "DivPrune", "Full", "PruMerge", "Random", "Reduced", "Reducer", "Trim"),
        *("TrimCover", "VisionZip", "VisualTokens"),
    ]
    assert all(hasattr(trim, name) and getattr(trim, name).__doc__ for name in trim.__all__)


def test_field_order() -> None:
    assert [f.name for f in dataclasses.fields(VisualTokens)] == [
        *("patches", "metric", "text", "cls", "cls_attention", "head_mean_keys", "last_cls_attention"),
        *("last_keys", "embeddings", "identity", "budget"),
    ]
    assert [f.name for f in dataclasses.fields(Reduced)] == ["tokens", "kept"]
    assert list(inspect.signature(Trim).parameters) == [
        *("keep_ratio", "num_kept", "sign", "normalize", "iqr_factor", "aggregate"),
    ]
    assert Trim() == Trim(None, None, -1, False, 1.5, True)
    assert PruMerge() == PruMerge(plus=False, neighbours=32)
    assert VisionZip() == VisionZip(dominant=54, contextual=10)
    assert DivPrune(5) == DivPrune(num_kept=5) and CDPruner(5) == CDPruner(num_kept=5)


def test_only_patches_are_required() -> None:
    x = VisualTokens(patches=torch.zeros(1, 1, 1))
    assert all(getattr(x, f.name) is None for f in dataclasses.fields(x) if f.name != "patches")


@pytest.mark.parametrize("reducer", EVERY, ids=repr)
def test_reducers_are_frozen_hashable_and_follow_the_protocol(reducer: Reducer) -> None:
    assert isinstance(reducer, Reducer)
    assert isinstance(reducer.needs, frozenset)
    assert reducer.needs <= {f.name for f in dataclasses.fields(VisualTokens)}
    hash(reducer)
    for name in ("needs", "seed", "sign"):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(reducer, name, 1)


def test_needs() -> None:
    assert Full().needs == frozenset()
    assert Random(num_kept=1).needs == {"identity"}
    assert Trim().needs == {"metric", "text"}
    assert PruMerge().needs == {"last_cls_attention", "last_keys"}
    assert VisionZip().needs == {"cls", "cls_attention", "head_mean_keys"}
    assert DivPrune(1).needs == {"embeddings"}
    assert CDPruner(1).needs == {"metric", "text", "embeddings"}


@pytest.mark.parametrize("reducer", EVERY, ids=repr)
def test_reducers_read_only_their_needs_and_name_a_missing_field(reducer: Reducer) -> None:
    x = full_batch()
    only = VisualTokens(patches=x.patches, **{name: getattr(x, name) for name in reducer.needs})
    assert len(reducer(only)) == 2
    for name in reducer.needs:
        with pytest.raises(ValueError, match=f"VisualTokens.{name} is missing"):
            reducer(dataclasses.replace(only, **{name: None}))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Trim(keep_ratio=0.5, num_kept=3), "keep_ratio and num_kept"),
        (lambda: Trim(keep_ratio=0.0), "keep_ratio"),
        (lambda: Trim(keep_ratio=1.01), "keep_ratio"),
        (lambda: Trim(keep_ratio=float("nan")), "keep_ratio"),
        (lambda: Trim(num_kept=0), "num_kept"),
        (lambda: Trim(num_kept=2.5), "num_kept"),
        (lambda: Trim(sign=0), "sign"),
        (lambda: Trim(iqr_factor=-0.1), "iqr_factor"),
        (lambda: Trim(iqr_factor=float("inf")), "iqr_factor"),
        (lambda: Random(), "keep_ratio or num_kept"),
        (lambda: Random(keep_ratio=0.5, num_kept=3), "keep_ratio and num_kept"),
        (lambda: Random(keep_ratio=-1.0), "keep_ratio"),
        (lambda: Random(num_kept=True), "num_kept"),
        (lambda: Random(num_kept=1, seed=-1), "seed"),
        (lambda: Random(num_kept=1, seed=2**63), "seed"),
        (lambda: Random(num_kept=1, seed=0.5), "seed"),
    ],
)
def test_construction_names_the_wrong_parameter(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("reducer", "changed", "message"),
    [
        (Trim(), {"metric": torch.ones(2, 4, 4)}, "metric has shape"),
        (Trim(), {"text": torch.ones(1, 4)}, "text has shape"),
        (Trim(), {"text": torch.ones(2, 3)}, "text has shape"),
        (Trim(), {"patches": torch.ones(2, 0, 3)}, "patches has shape"),
        (Full(), {"patches": torch.ones(5, 3)}, "patches has shape"),
        (Random(num_kept=1), {"identity": torch.tensor([1])}, "identity has shape"),
        (Random(num_kept=1), {"identity": torch.ones(2)}, "identity must be"),
        (PruMerge(), {"last_cls_attention": torch.ones(2, 5, 5)}, "last_cls_attention has shape"),
        (PruMerge(), {"last_keys": torch.ones(2, 5)}, "last_keys has shape"),
        (VisionZip(), {"cls": torch.ones(2, 4)}, "cls has shape"),
        (VisionZip(), {"head_mean_keys": torch.ones(2, 5, 2, 3)}, "head_mean_keys has shape"),
        (DivPrune(1), {"embeddings": torch.ones(2, 5)}, "embeddings has shape"),
        (CDPruner(1), {"text": torch.ones(2, 3)}, "text has shape"),
        (Trim(), {"budget": torch.tensor([1])}, "budget has shape"),
        (Trim(), {"budget": torch.ones(2)}, "budget must be"),
        (Trim(), {"budget": torch.tensor([4, 0])}, "budget of image 1 is 0"),
        (Random(num_kept=1), {"budget": torch.tensor([-1, 2])}, "budget of image 0 is -1"),
    ],
)
def test_call_names_the_wrong_field(reducer: Reducer, changed: dict[str, torch.Tensor], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        reducer(full_batch(**changed))


@pytest.mark.parametrize(
    "device",
    [
        "cpu",
        pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("reducer", EVERY, ids=repr)
def test_device_and_dtype_are_preserved(reducer: Reducer, dtype: torch.dtype, device: str) -> None:
    for reduced in reducer(full_batch(dtype, device)):
        assert reduced.tokens.dtype == dtype and reduced.tokens.device.type == device
        assert reduced.kept.dtype == torch.int64 and reduced.kept.device.type == device
        assert reduced.tokens.shape[1:] == (3,)
