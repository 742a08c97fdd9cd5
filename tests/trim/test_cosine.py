"""Test that cosines are exact sums of products, whatever the order of addition."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trim.cosine import cosines, unit_vectors

GRID = 2**26


def rows(seed: int, count: int, width: int, scale: float = 1.0) -> torch.Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed)) * scale


@settings(max_examples=40, derandomize=True)
@given(
    st.integers(0, 10**6), st.integers(1, 9), st.integers(1, 300), st.sampled_from([1e-30, 1e-3, 1.0, 1e30])
)
def test_products_equal_those_of_unbounded_integers(seed, count, width, scale) -> None:
    unit = unit_vectors(rows(seed, count, width, scale))[0]
    integers = [[int(v * GRID) for v in row] for row in unit.tolist()]
    assert torch.equal(unit, torch.tensor(integers, dtype=torch.float64) / GRID)
    products = (unit @ unit.T).tolist()
    for i in range(count):
        for j in range(count):
            assert (
                products[i][j] == sum(a * b for a, b in zip(integers[i], integers[j], strict=True)) / GRID**2
            )


@pytest.mark.parametrize("width", [1, 64, 1024, 4096])
def test_close_to_the_cosine(width: int) -> None:
    x = rows(width, 50, width)
    unit = x.double() / x.double().norm(dim=-1, keepdim=True)
    assert (cosines(x[None])[0][0] - unit @ unit.T).abs().max() < 2**-24


def test_no_order_of_addition_changes_a_bit() -> None:
    unit = unit_vectors(rows(1, 200, 1024))[0]
    products = unit @ unit.T
    mixed = unit[:, torch.randperm(1024, generator=torch.Generator().manual_seed(2))]
    assert torch.equal(products, mixed @ mixed.T) and torch.equal(products, products.T)
    assert torch.equal(products[:7, 3:5], unit[:7] @ unit[3:5].T)
    assert torch.equal(products[0], (unit[0] * unit).sum(-1))


def test_zero_vectors_have_cosine_zero_and_huge_ones_are_normalised() -> None:
    x = torch.tensor([[0.0, 0.0], [1e-38, 0.0], [3e38, 3e38], [-2.0, 0.0]])
    expected = [[0, 0, 0, 0], [0, 1, 0.5**0.5, -1], [0, 0.5**0.5, 1, -(0.5**0.5)], [0, -1, -(0.5**0.5), 1]]
    torch.testing.assert_close(cosines(x[None])[0][0], torch.tensor(expected).double(), rtol=0, atol=2**-25)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_any_dtype_is_read_as_float32(dtype: torch.dtype) -> None:
    x = rows(3, 5, 40).to(dtype)
    assert torch.equal(cosines(x[None])[0], cosines(x.float()[None])[0])


@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_an_image_with_an_infinite_value_is_told(value: float) -> None:
    x = rows(4, 6, 3).view(3, 2, 3).clone()
    x[1, 0, 2] = value
    assert cosines(x)[1].tolist() == [True, False, True]
