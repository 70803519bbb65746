"""Random numbers from whole ones: torch's own uniform and normal numbers differ in their last bits."""

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import init

from stages.lib.arithmetic.exact import Ranks
from stages.lib.arithmetic.functions import nearest, sqrt
from stages.lib.arithmetic.guard import trusted

WHOLE = 1 << 24  # values of a uniform number


def whole_numbers(shape: Any, generator: torch.Generator | None = None) -> Tensor:
    """Draw whole numbers from 0 up to but not including WHOLE, as float32."""
    return torch.empty(shape, dtype=torch.int32).random_(0, WHOLE, generator=generator).float()


def normal(shape: Any, generator: torch.Generator | None = None) -> Tensor:
    """Draw standard normal numbers by the method of Box and Muller (1958): float32."""
    count = math.prod(shape)
    pairs = (count + 1) // 2
    radius = sqrt(-2 * nearest("log", (whole_numbers([pairs], generator) + 1) / WHOLE))
    angle = whole_numbers([pairs], generator).double() * (2 * math.pi / WHOLE)
    return torch.cat([radius * nearest("cos", angle), radius * nearest("sin", angle)])[:count].view(shape)


def beta(alpha: float) -> float:
    """Draw from Beta(alpha, alpha): the share of one of two Gamma(alpha) numbers; from the CPU's default generator."""
    first, second = gamma(alpha), gamma(alpha)
    return first / (first + second) if first + second else 0.5


def gamma(alpha: float) -> float:
    """Draw from Gamma(alpha, 1) by the method of Marsaglia and Tsang (2000)."""
    if alpha < 1:
        exponent = float(nearest("log", (whole_numbers([1]) + 1) / WHOLE)) / alpha
        return gamma(alpha + 1) * float(nearest("exp", torch.tensor([exponent], dtype=torch.float64)))
    d = alpha - 1 / 3
    while True:
        x = float(normal([1]))
        v = 1 + x / math.sqrt(9 * d)
        if v <= 0:
            continue
        v = v * v * v
        u = (whole_numbers([1]) + 1) / WHOLE
        if float(nearest("log", u)) < x * x / 2 + d - d * v + d * float(nearest("log", torch.tensor([v]).double())):
            return d * v


@trusted
def normal_(ranks: Ranks, x: Tensor, mean: float = 0.0, std: float = 1.0, *, generator: Any = None) -> Tensor:
    """`Tensor.normal_`."""
    return x.copy_((normal(x.shape, generator) * std).add_(mean))


@trusted
def uniform_(ranks: Ranks, x: Tensor, low: float = 0.0, high: float = 1.0, *, generator: Any = None) -> Tensor:
    """`Tensor.uniform_`."""
    return x.copy_((whole_numbers(x.shape, generator) / WHOLE).mul_(high - low).add_(low))


def kaiming_uniform_(
    ranks: Ranks,
    tensor: Tensor,
    a: float = 0,
    mode: Any = "fan_in",
    nonlinearity: Any = "leaky_relu",
    generator: Any = None,
) -> Tensor:
    """`torch.nn.init.kaiming_uniform_` (He et al. 2015)."""
    fan = init._calculate_correct_fan(tensor, mode)
    bound = math.sqrt(3) * init.calculate_gain(nonlinearity, a) / math.sqrt(fan)
    with torch.no_grad():
        return uniform_(ranks, tensor, -bound, bound, generator=generator)


def init_uniform_(ranks: Ranks, tensor: Tensor, a: float = 0.0, b: float = 1.0, generator: Any = None) -> Tensor:
    """`torch.nn.init.uniform_`."""
    with torch.no_grad():
        return uniform_(ranks, tensor, a, b, generator=generator)


def init_normal_(ranks: Ranks, tensor: Tensor, mean: float = 0.0, std: float = 1.0, generator: Any = None) -> Tensor:
    """`torch.nn.init.normal_`."""
    with torch.no_grad():
        return normal_(ranks, tensor, mean, std, generator=generator)


@trusted
def erfinv_(ranks: Ranks, x: Tensor) -> Tensor:
    """`Tensor.erfinv_`."""
    return x.copy_(nearest("erfinv", x))


def uniform_rows(ranks: Ranks, x: Tensor) -> Tensor:
    """Draw numbers from [0, 1), as many as x (B, ...) has: the rows of this rank of those for the whole batch."""
    return ranks.of_this_rank(whole_numbers([ranks.rows_in_all(len(x)), *x.shape[1:]])) / WHOLE


@trusted
def bernoulli_(ranks: Ranks, x: Tensor, p: float = 0.5, *, generator: Any = None) -> Tensor:
    """`Tensor.bernoulli_` of a number for each row, or of one for all."""
    numbers = uniform_rows(ranks, x) if x.ndim > 1 else whole_numbers(x.shape, generator) / WHOLE
    return x.copy_(numbers < p)


@trusted
def randn(ranks: Ranks, *size: Any, device: Any = None) -> Tensor:
    """`torch.randn`."""
    return normal(size[0] if isinstance(size[0], list | tuple) else size)
