"""Functions whose results are the float32 numbers nearest to the truth, whichever library computes them.

exp, log, tanh and the like are off by an amount that differs from library to library, but little in float64. The ends
of what the true value may be are rounded to float32: if they agree, that is the result, whoever computed it. If not,
the true value lies so close to the middle between two float32 numbers that more digits have to decide (Ziv 1991).
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd import Function

from stages.lib.arithmetic.guard import trusted

# A true value lies between these multiples of what a library computes in float64: 128 units in the last place, where
# libraries document at most 4.
BELOW, ABOVE = 1 - 2.0**-46, 1 + 2.0**-46
SMALLEST = 87.0  # exp(-87) is the last whole power that is no subnormal float32
# Arguments outside of these limits are moved to them: beyond, the results would be subnormal.
LIMITS: dict[str, dict[str, float]] = {
    "exp": {"min": -SMALLEST},
    "sigmoid": {"min": -SMALLEST},
    "softplus": {"min": -SMALLEST},
    "erfc": {"max": 9.0},
}


def softplus(x: Tensor) -> Tensor:
    """log(1 + exp(x)), without overflow."""
    return x.clamp(min=0) + torch.log1p(torch.exp(-x.abs()))


# Of torch, float64 -> float64, and of mpmath where its name differs.
FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "exp": torch.exp,
    "expm1": torch.expm1,
    "log": torch.log,
    "log1p": torch.log1p,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "softplus": softplus,
    "erfc": torch.erfc,
    "erfinv": torch.erfinv,
    "sin": torch.sin,
    "cos": torch.cos,
}
# x, y -> dy/dx
DERIVATIVES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "exp": lambda x, y: y,
    "expm1": lambda x, y: y + 1,
    "log": lambda x, y: torch.ones_like(x) / x,
    "log1p": lambda x, y: torch.ones_like(x) / (x + 1),
    "tanh": lambda x, y: 1 - y * y,
    "sigmoid": lambda x, y: y * (1 - y),
    "softplus": lambda x, y: nearest("sigmoid", x),
    "erfc": lambda x, y: nearest("exp", -(x * x)) * (-2 / math.sqrt(math.pi)),
    "sin": lambda x, y: nearest("cos", x),
    "cos": lambda x, y: -nearest("sin", x),
}


def nearest(name: str, x: Tensor) -> Tensor:
    """Compute a function of FUNCTIONS, rounded to the nearest float32.

    Args:
        name: of the function.
        x: float32 or float64, of any shape.
    """
    x = x.double()
    if name in LIMITS:
        x = x.clamp(**LIMITS[name])
    y = FUNCTIONS[name](x)
    low, high = (y * BELOW).float(), (y * ABOVE).float()
    if not torch.equal(low, high):
        for at in (low != high).nonzero().tolist():
            low[tuple(at)] = _decided(name, x[tuple(at)].item(), y[tuple(at)].item())
    return low


def _decided(name: str, x: float, y: float) -> float:
    """Round the function of `x`, which is near `y`, to the nearest float32 with more digits."""
    import mpmath  # type: ignore[import-untyped]  # installed with torch; rarely needed

    if not math.isfinite(y):
        return y
    with mpmath.workprec(160):
        if name == "sigmoid":
            exact = 1 / (1 + mpmath.exp(-x))
        elif name == "softplus":
            exact = mpmath.log1p(mpmath.exp(x))
        else:
            exact = getattr(mpmath, name)(mpmath.mpf(x))
        with mpmath.workprec(24):
            return float(+exact)


class Nearest(Function):
    """`nearest`, with its derivative."""

    @staticmethod
    @trusted
    def forward(ctx: Any, x: Tensor, name: str) -> Tensor:
        y = nearest(name, x)
        ctx.save_for_backward(x, y)
        ctx.name = name
        return y

    @staticmethod
    @trusted
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0] * DERIVATIVES[ctx.name](*ctx.saved_tensors), None


@trusted
def sqrt(x: Tensor) -> Tensor:
    """The square root of float32 or float64, as IEEE 754 rounds it.

    NumPy uses the processor's instruction. torch uses MKL on x86-64, which is wrong by one bit in a sixth of all cases.
    """
    root: Tensor = torch.from_numpy(np.sqrt(x.detach().numpy()))
    return root


class SquareRoot(Function):
    """`sqrt`, with its derivative."""

    @staticmethod
    @trusted
    def forward(ctx: Any, x: Tensor) -> Tensor:
        y = sqrt(x)
        ctx.save_for_backward(y)
        return y

    @staticmethod
    @trusted
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        (y,) = ctx.saved_tensors
        into_x: Tensor = grads[0] / (2 * y)
        return into_x


def half_cosine(progress: float) -> float:
    """Compute (1 + cos(pi * progress)) / 2 for a progress from 0 to 1, in additions and multiplications alone.

    The cosine of a library may be off by one in its last digit; the Taylor series of sin(pi / 2 * (1 - 2 progress))
    gives 1 + sin, is off by less than 1e-16, and is computed in the same order everywhere.
    """
    x = (1 - 2 * progress) * 1.5707963267948966
    term = total = x
    for number in range(3, 27, 2):
        term *= -x * x / (number * (number - 1))
        total += term
    return (1 + total) / 2


def power(base: float, exponent: int) -> float:
    """Compute base ** exponent by squaring: the same multiplications everywhere, where `**` calls a library."""
    result = 1.0
    while exponent:
        if exponent & 1:
            result *= base
        base *= base
        exponent >>= 1
    return result
