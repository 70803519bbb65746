"""Functions that are rounded right: against many digits, and with libraries that err in every direction."""

import math
from typing import Any

import mpmath  # type: ignore[import-untyped]
import numpy as np
import pytest
import torch
from torch import Tensor

from stages.lib.arithmetic import functions
from stages.lib.arithmetic.functions import FUNCTIONS, half_cosine, nearest, power, sqrt


def arguments(name: str, count: int) -> Tensor:
    """Draw float32 arguments over the range in which a function changes."""
    x = (torch.rand(count, generator=torch.Generator().manual_seed(0)) - 0.5) * 20
    return {"log": x.abs() + 1e-3, "log1p": x.abs() - 0.9, "erfinv": x / 10.1, "erfc": x * 0.8}.get(name, x)


def truth(name: str, x: float) -> float:
    """Compute a function with many digits, rounded to float32 once."""
    with mpmath.workprec(200):
        own: dict[str, Any] = {
            "sigmoid": lambda z: 1 / (1 + mpmath.exp(-z)),
            "softplus": lambda z: mpmath.log1p(mpmath.exp(z)),
        }
        function = own[name] if name in own else getattr(mpmath, name)
        value = function(mpmath.mpf(x))
        with mpmath.workprec(24):
            return float(+value)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_results_are_the_nearest_float32(name: str) -> None:
    x = arguments(name, 1000)
    assert nearest(name, x).tolist() == [truth(name, each) for each in x.tolist()]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_errors_of_a_library_do_not_matter(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As large as one in a million results has, ten times what a library may err: some need more digits to decide."""
    x, library = arguments(name, 20_000), FUNCTIONS[name]
    expected = nearest(name, x)
    noise = torch.randint(-60, 61, x.shape, generator=torch.Generator().manual_seed(1)) * 2.0**-52
    monkeypatch.setitem(FUNCTIONS, name, lambda values: library(values) * (1 + noise))
    assert torch.equal(nearest(name, x), expected)


def test_digits_decide_where_the_library_cannot(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a library that is taken for a bad one, all results are decided so."""
    x = arguments("tanh", 200)
    expected = nearest("tanh", x)
    monkeypatch.setattr(functions, "BELOW", 0.5)
    monkeypatch.setattr(functions, "ABOVE", 2.0)
    assert torch.equal(nearest("tanh", x), expected)


@pytest.mark.parametrize(
    ("name", "x", "expected"),
    [
        ("exp", 0.0, 1.0),
        ("exp", 100.0, math.inf),
        ("exp", -math.inf, 1.6458115e-38),  # the smallest result
        ("log", 0.0, -math.inf),
        ("log", math.inf, math.inf),
        ("tanh", math.inf, 1.0),
        ("tanh", 1e-42, 1e-42),
        ("expm1", -math.inf, -1.0),
        ("sigmoid", math.inf, 1.0),
        ("softplus", 50.0, 50.0),
    ],
)
def test_limits(name: str, x: float, expected: float) -> None:
    assert float(nearest(name, torch.tensor([x]))) == float(torch.tensor(expected))


def test_not_a_number_stays_so() -> None:
    assert nearest("tanh", torch.tensor([math.nan, 1.0])).isnan().tolist() == [True, False]
    assert nearest("log", torch.tensor([-1.0])).isnan().all()


def test_zeros_keep_their_sign() -> None:
    assert torch.copysign(torch.ones(2), nearest("tanh", torch.tensor([0.0, -0.0]))).tolist() == [1.0, -1.0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_square_roots_are_rounded_as_ieee_754_says(dtype: torch.dtype) -> None:
    x = torch.rand(2000, generator=torch.Generator().manual_seed(0), dtype=dtype) * 100
    for value, root in zip(x.tolist(), sqrt(x).tolist(), strict=True):
        with mpmath.workprec(200):
            exact = mpmath.sqrt(mpmath.mpf(value))
            with mpmath.workprec(24 if dtype == torch.float32 else 53):
                assert root == float(+exact)


@pytest.mark.parametrize("name", [name for name in functions.DERIVATIVES if name != "erfinv"])
def test_derivatives(name: str) -> None:
    x = arguments(name, 500)
    ours, theirs = x.clone().requires_grad_(), x.double().requires_grad_()
    functions.Nearest.apply(ours, name).sum().backward()
    FUNCTIONS[name](theirs).sum().backward()
    assert ours.grad is not None
    assert theirs.grad is not None
    torch.testing.assert_close(ours.grad, theirs.grad.float(), rtol=1e-5, atol=1e-6)


def test_half_a_cosine_and_powers_need_no_library() -> None:
    for progress in np.linspace(0, 1, 101).tolist():
        assert half_cosine(progress) == pytest.approx((1 + math.cos(math.pi * progress)) / 2, abs=1e-15)
    assert half_cosine(0.0) == 1
    assert abs(half_cosine(1.0)) < 1e-15
    assert power(0.9, 0) == 1
    for exponent in (1, 2, 7, 1000):
        assert power(0.999, exponent) == pytest.approx(0.999**exponent, rel=1e-13)
