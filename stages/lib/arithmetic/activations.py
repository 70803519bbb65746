"""The activations of `torch.nn.functional`, composed of operations that are equal everywhere and of `Nearest`."""

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from stages.lib.arithmetic.elementwise import Expanded
from stages.lib.arithmetic.exact import Ranks
from stages.lib.arithmetic.functions import Nearest
from stages.lib.arithmetic.random import uniform_rows

SELU_ALPHA, SELU_SCALE = 1.6732632423543772848170429916717, 1.0507009873554804934193349852946


def nearest(name: str, x: Tensor) -> Tensor:
    """Compute a function of `functions.FUNCTIONS`, with its gradient."""
    y: Tensor = Nearest.apply(x, name)
    return y


def celu(ranks: Ranks, x: Tensor, alpha: float = 1.0, inplace: bool = False) -> Tensor:
    return torch.where(x > 0, x, alpha * nearest("expm1", x.clamp(max=0) / alpha))


def elu(ranks: Ranks, x: Tensor, alpha: float = 1.0, inplace: bool = False) -> Tensor:
    return torch.where(x > 0, x, alpha * nearest("expm1", x.clamp(max=0)))


def gelu(ranks: Ranks, x: Tensor, approximate: str = "none") -> Tensor:
    if approximate == "tanh":
        return 0.5 * x * (1 + nearest("tanh", 0.7978845608028654 * (x + 0.044715 * (x * x * x))))
    return 0.5 * x * nearest("erfc", x * -math.sqrt(0.5))


def hardsigmoid(ranks: Ranks, x: Tensor, inplace: bool = False) -> Tensor:
    return (x + 3).clamp(0, 6) / 6


def hardswish(ranks: Ranks, x: Tensor, inplace: bool = False) -> Tensor:
    return x * ((x + 3).clamp(0, 6) / 6)


def hardshrink(ranks: Ranks, x: Tensor, lambd: float = 0.5) -> Tensor:
    return torch.where(x.abs() > lambd, x, 0.0)


def logsigmoid(ranks: Ranks, x: Tensor) -> Tensor:
    return -nearest("softplus", -x)


def mish(ranks: Ranks, x: Tensor, inplace: bool = False) -> Tensor:
    return x * nearest("tanh", nearest("softplus", x))


def prelu(ranks: Ranks, x: Tensor, weight: Tensor) -> Tensor:
    shape = (1, -1, *[1] * (x.ndim - 2)) if x.ndim > 1 else (-1,)
    slope = Expanded.apply(weight.view(shape), x.shape, ranks)
    return torch.where(x > 0, x, slope * x)


def rrelu(
    ranks: Ranks, x: Tensor, lower: float = 1 / 8, upper: float = 1 / 3, training: bool = False, inplace: bool = False
) -> Tensor:
    slope = uniform_rows(ranks, x) * (upper - lower) + lower if training else (lower + upper) / 2
    return torch.where(x >= 0, x, x * slope)


def selu(ranks: Ranks, x: Tensor, inplace: bool = False) -> Tensor:
    return SELU_SCALE * elu(ranks, x, SELU_ALPHA)


def silu(ranks: Ranks, x: Tensor, inplace: bool = False) -> Tensor:
    return x * nearest("sigmoid", x)


def softplus(ranks: Ranks, x: Tensor, beta: float = 1.0, threshold: float = 20.0) -> Tensor:
    return torch.where(x * beta > threshold, x, nearest("softplus", x * beta) / beta)


def softshrink(ranks: Ranks, x: Tensor, lambd: float = 0.5) -> Tensor:
    return x - x.clamp(-lambd, lambd)


def softsign(ranks: Ranks, x: Tensor) -> Tensor:
    return x / (1 + x.abs())


def tanhshrink(ranks: Ranks, x: Tensor) -> Tensor:
    return x - nearest("tanh", x)


def of_one(name: str) -> Any:
    """Return a function of `functions.FUNCTIONS` as a replacement."""
    return lambda ranks, x: nearest(name, x)


ACTIVATIONS: dict[Any, Any] = {
    functional.celu: celu,
    functional.elu: elu,
    functional.gelu: gelu,
    functional.hardsigmoid: hardsigmoid,
    functional.hardswish: hardswish,
    functional.hardshrink: hardshrink,
    functional.logsigmoid: logsigmoid,
    functional.mish: mish,
    functional.prelu: prelu,
    functional.rrelu: rrelu,
    functional.selu: selu,
    functional.silu: silu,
    functional.softplus: softplus,
    functional.softshrink: softshrink,
    functional.softsign: softsign,
    functional.tanhshrink: tanhshrink,
}
for name in ("tanh", "sigmoid", "exp", "log", "log1p", "expm1", "sin", "cos", "erfc"):
    ACTIVATIONS[getattr(torch, name)] = ACTIVATIONS[getattr(Tensor, name)] = of_one(name)
