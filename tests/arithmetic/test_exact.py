"""Exact sums and products: their order does not matter, and they are as accurate as sums in float32."""

import math

import pytest
import torch
from torch import Tensor

from stages.lib.arithmetic.exact import ALONE, balanced, exact_sum, other, whole_rows
from stages.lib.arithmetic.products import Linear


def numbers(*shape: int, seed: int = 0, tails: float = 0.0) -> Tensor:
    """Draw normal numbers; with `tails`, each divided by a uniform one to that power: very large ones among them."""
    generator = torch.Generator().manual_seed(seed)
    normal = torch.randn(*shape, generator=generator)
    return normal / torch.rand(*shape, generator=generator).clamp(min=1e-3) ** tails


def relative_errors(products: Tensor, x: Tensor, weight: Tensor) -> float:
    """Return the root mean square error of products, in units of 2**-24 of the factors' norms."""
    exact = x.double() @ weight.double().T
    norms = x.double().norm(dim=1)[:, None] * weight.double().norm(dim=1)
    return float(((products.double() - exact) / norms).square().mean().sqrt()) * 2**24


def summed_in_turn(x: Tensor, weight: Tensor) -> Tensor:
    """Multiply matrices in float32, adding one product after the other."""
    total = torch.zeros(len(x), len(weight))
    for k in range(x.shape[1]):
        total += x[:, k : k + 1] * weight[:, k]
    return total


@pytest.mark.parametrize("terms", [1, 2, 3, 784, 4097, 1 << 20, (1 << 25) + 1])
def test_no_sum_exceeds_the_whole_numbers_of_float64(terms: int) -> None:
    magnitude = balanced(terms)
    assert magnitude * magnitude * terms <= 2**53
    assert magnitude * other(magnitude, terms) * terms <= 2**53
    assert magnitude == min(2**24, math.isqrt(2**53 // terms)) or magnitude / math.isqrt(2**53 // terms) > 0.99999


def test_scaled_rows_do_not_exceed_their_magnitude() -> None:
    for seed in range(20):
        whole, maximum = whole_rows(numbers(100, 7, seed=seed) * 10.0 ** (seed - 10), 3_000_000.0)
        assert torch.equal(whole, whole.round())
        assert whole.abs().max() <= 3_000_000
        assert maximum.shape == (100, 1)


@pytest.mark.parametrize("tails", [0.0, 1.0])
def test_the_order_of_a_sum_does_not_matter(tails: float) -> None:
    values = numbers(1000, 7, tails=tails)
    total = exact_sum(values, [0], ALONE)
    for seed in range(5):
        order = torch.randperm(1000, generator=torch.Generator().manual_seed(seed))
        assert torch.equal(exact_sum(values[order], [0], ALONE), total)
    torch.testing.assert_close(total, values.double().sum(0), rtol=1e-12, atol=1e-9)


@pytest.mark.parametrize("tails", [0.0, 1.0])
def test_the_order_of_a_product_does_not_matter(tails: float) -> None:
    x, weight = numbers(8, 784, tails=tails), numbers(5, 784, seed=1, tails=tails)
    products = Linear.apply(x, weight, None, ALONE)
    order = torch.randperm(784, generator=torch.Generator().manual_seed(2))
    assert torch.equal(Linear.apply(x[:, order], weight[:, order], None, ALONE), products)
    assert torch.equal(Linear.apply(x[3:4], weight, None, ALONE), products[3:4]), "an image alone"


@pytest.mark.parametrize("terms", [32, 96, 256, 784, 4096])
def test_products_are_as_accurate_as_sums_in_float32(terms: int) -> None:
    x, weight = numbers(64, terms), numbers(64, terms, seed=1)
    ours = relative_errors(Linear.apply(x, weight, None, ALONE), x, weight)
    assert ours <= relative_errors(summed_in_turn(x, weight), x, weight)


def test_heavy_tails_cost_accuracy_within_their_own_row() -> None:
    """The small numbers of a row lose digits to the largest: the error stays small against the product of norms."""
    x, weight = numbers(64, 784, tails=1.0), numbers(64, 784, seed=1, tails=1.0)
    assert relative_errors(Linear.apply(x, weight, None, ALONE), x, weight) < 2


def test_what_is_not_finite_stays_so() -> None:
    x, weight = numbers(4, 6), numbers(3, 6, seed=1)
    for row, value in enumerate((math.nan, math.inf, -math.inf)):
        x[row, 2] = value
    products = Linear.apply(x, weight, None, ALONE)
    assert not products[:3].isfinite().any()
    assert products[3].isfinite().all()


def test_zeros_and_the_smallest_numbers_are_factors_too() -> None:
    x, weight = numbers(3, 6), numbers(2, 6, seed=1)
    x[0], x[1] = 0.0, 1e-42
    products = Linear.apply(x, weight, None, ALONE)
    assert torch.equal(products[:2], torch.zeros(2, 2))
    assert torch.equal(Linear.apply(x, torch.zeros(2, 6), None, ALONE), torch.zeros(3, 2))
