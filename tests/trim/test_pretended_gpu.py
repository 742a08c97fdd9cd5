"""Test the reducers on the pretended CUDA device: the CPU's bits, and few waits for the device."""

import dataclasses

import pytest
import torch

from tests.support.pretended_cuda import pretended_cuda
from tests.trim.batches import EVERY, configured, fields, make
from trim import Reduced, VisualTokens

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def on(x: VisualTokens, device: str) -> VisualTokens:
    return VisualTokens(**{name: tensor.to(device) for name, tensor in fields(x).items()})


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
@pytest.mark.parametrize("reducer", EVERY.values(), ids=EVERY)
def test_a_reducer_gives_the_cpus_bits(reducer, dtype) -> None:
    budgeted = dataclasses.replace(make(4, 4, 24, "ties", dtype=dtype), budget=torch.tensor([1, 4, 24, 7]))
    for x in (make(3, 4, 36, dtype=dtype), budgeted):
        expected = reducer(x)
        with pretended_cuda():
            results = [Reduced(item.tokens.cpu(), item.kept.cpu()) for item in reducer(on(x, "cuda"))]
        for result, same in zip(results, expected, strict=True):
            assert torch.equal(result.tokens, same.tokens) and torch.equal(result.kept, same.kept)


@pytest.mark.parametrize("budgeted", [False, True])
@pytest.mark.parametrize("reducer", configured().values(), ids=configured())
def test_the_host_waits_three_times_at_most_however_many_images_there_are(reducer, budgeted) -> None:
    waits = []
    for images in (2, 6):
        x = make(5, images, 30)
        x = dataclasses.replace(x, budget=torch.full((images,), 9)) if budgeted else x
        with pretended_cuda() as counts:
            there = on(x, "cuda")
            counts.reset()
            reducer(there)
        waits.append(counts.waits.total())
        assert counts.to_device.total() <= 1, str(counts)  # what PruMerge+ has chosen
    assert waits[0] == waits[1] <= 3, str(counts)


@pytest.mark.parametrize("reducer", configured().values(), ids=configured())
def test_a_nan_is_refused_there_too(reducer) -> None:
    with pretended_cuda():
        for name in reducer.needs - {"identity", "cls"}:
            x = make(11, 4, 20)
            getattr(x, name)[2].view(-1)[3] = torch.nan
            with pytest.raises(ValueError, match=f"image 2 .*{name}"):
                reducer(on(x, "cuda"))
